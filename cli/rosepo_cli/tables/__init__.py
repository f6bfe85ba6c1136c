"""What commands show on stdout: tables that fit into 80 columns, one file for each subject."""
