"""The command line: parse and delegate."""
