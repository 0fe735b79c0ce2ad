"""The conversation in a terminal. May import cli/, engine, generate and util."""
