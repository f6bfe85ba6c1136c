"""Pure functions on tables and arrays: filters of a corpus, given examples, splits, readers of text tables."""
