"""The command line: parses, calls, prints. No logic of its own."""

from bmqwen.cli.app import main

__all__ = ["main"]
