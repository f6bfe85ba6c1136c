"""The installed plugins: found, registered, kept from ending the program, and recorded with a run."""
