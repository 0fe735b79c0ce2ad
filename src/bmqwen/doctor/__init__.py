"""Examinations: is this machine ready, its software, its chips, and does a model fit into their memory."""
