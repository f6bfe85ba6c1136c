"""The command line: arguments in, pictures out, no logic."""
