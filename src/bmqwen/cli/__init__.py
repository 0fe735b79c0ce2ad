"""The command line: parses, calls, prints. No logic of its own."""

import os
import signal


def main() -> None:
    """Run the command line and leave with its exit code.

    0: done; 1: failed; 2: wrong usage or input; 130: interrupted by Ctrl-C; 143: ended by SIGTERM.
    """
    # Ctrl-C while all else is imported, which takes a moment, would end in a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    from bmqwen.cli.app import main as run

    run()


def _leave(*_: object) -> None:
    os.write(2, b"bmqwen: interrupted\n")
    os._exit(128 + signal.SIGINT)
