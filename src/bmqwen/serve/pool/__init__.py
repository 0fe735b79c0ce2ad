"""Engines in processes of their own, and who is served by which of them when."""
