"""One file a publisher: which files, columns and attributes its data sets have."""
