"""The command line: the owner's way in, with a running server or without one."""
