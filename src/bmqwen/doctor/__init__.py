"""Is this machine ready: its software, its chips, and whether a model fits into their memory."""
