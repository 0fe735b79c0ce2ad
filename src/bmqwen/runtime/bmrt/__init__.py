"""The vendor's runtime, libbmrt on libbmlib, by ctypes: the same code for a chip and for its simulator."""
