"""`python -m bmqwen`."""

from bmqwen.cli import main

main()
