"""Architectures: configuration, tensor names, and the network written in operations."""
