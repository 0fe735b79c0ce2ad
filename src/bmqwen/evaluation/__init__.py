"""How far a model in some precision, or compiled, is from the float model; and how fast it is.

May import engine, resolve and all below them.
"""
