"""One file a command: options, the call, what is printed. May import cli/ and every room below."""
