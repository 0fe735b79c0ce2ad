"""Examinations: is this machine ready, its software, its chips, and does a model fit into their memory.

May import everything but cli and serve; what is heavy only where it is examined.
"""
