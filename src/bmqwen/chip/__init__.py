"""The kinds of chips (`spec`), and what this machine says of its own: driver, libraries, devices, memory.

Files are read, no library of the vendor's is loaded. May import errors alone.
"""
