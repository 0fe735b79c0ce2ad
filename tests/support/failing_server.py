"""`bmqwen` whose engines fail when a test says so (`python -m support.failing_server`), and a live server of it."""

import sys
from pathlib import Path

from bmqwen.cli.app import run
from bmqwen.serve.pool import replica
from support.live_server import ONE, LiveServer

ENGINE = "support.failing_engine_process"


class FailingServer(LiveServer):
    """A server with one engine, which `fail` has fail."""

    program = "support.failing_server"

    def __init__(self, model: Path, *options: str, cache: Path, fault: Path) -> None:
        """`fault` is a file that need not be there."""
        self._fault = fault
        tests = Path(__file__).parents[1]
        super().__init__(
            model,
            [*ONE, *options],
            {
                "BMQWEN_CACHE": str(cache),
                "ENGINE_FAULT": str(fault),
                "PYTHONPATH": ":".join([str(tests), *filter(None, sys.path)]),
            },
        )

    def __enter__(self) -> "FailingServer":
        super().__enter__()
        return self

    def fail(self, when: str, how: str, *always: str) -> None:
        """Have the engine fail the next time, or always; see `support.failing_engine_process`."""
        # Engines look for it all the time, and must find it whole.
        draft = self._fault.with_suffix(".draft")
        draft.write_text(" ".join((when, how, *always)))
        draft.replace(self._fault)

    def recover(self) -> None:
        """Have the engine fail no more."""
        self._fault.unlink(missing_ok=True)


if __name__ == "__main__":
    replica.ENGINE_MODULE = ENGINE
    sys.exit(run(sys.argv[1:]))
