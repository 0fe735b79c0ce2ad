"""Architectures: a file each with configuration rules, tensor names and the network, written in operations.

To add one: a file with a subclass of `Architecture`, and its name in `registry.ARCHITECTURES`. May import util.
"""
