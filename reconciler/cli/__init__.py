"""The command line: one file a command group. Data goes to stdout, everything else to stderr."""
