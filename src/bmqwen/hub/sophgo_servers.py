"""The publisher's servers, as its download program knows them: which answer, and which speak HTTP."""

import base64
import importlib.util
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmqwen.errors import CheckpointError, MissingDependencyError
from bmqwen.hub.web_file import WebFile
from bmqwen.util.installation import install_command
from bmqwen.util.json_file import read_json_object

PACKAGE = "dfss"
# The servers answer at once or, behind a firewall, never.
CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Server:
    """One of the publisher's servers, as dfss knows it."""

    host: str
    port: int
    user: str
    password: str

    def file(self, path: str) -> WebFile:
        """A file of it, over HTTP, which not every server speaks."""
        login = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return WebFile(f"http://{self.host}:{self.port}/{path}", {"Authorization": f"Basic {login}"})


def known_servers() -> list[Server]:
    """The public servers in dfss's own list. Raises MissingDependencyError without dfss."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            f"the published bmodels are fetched with the package dfss: {install_command('sophgo')}"
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    content = read_json_object(folder / "output" / "dfss-config.json", CheckpointError)
    entries: Any = content.get("sdk")
    servers = []
    for entry in entries if isinstance(entries, list) else []:
        with suppress(KeyError, TypeError, ValueError):
            servers.append(
                Server(str(entry["host"]), int(entry["port"]), str(entry["user"]), str(entry["pass"]))
            )
    return servers


def reachable(servers: Sequence[Server], seconds: float) -> list[Server]:
    """Those that take a connection within some seconds, in the order given."""
    answers: dict[int, bool] = {}

    def ask(index: int, server: Server) -> None:
        with suppress(OSError), socket.create_connection((server.host, server.port), seconds):
            answers[index] = True

    threads = [
        threading.Thread(target=ask, args=(i, server), daemon=True) for i, server in enumerate(servers)
    ]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        # The first that answer do: others may be behind a wall that swallows everything.
        while thread.is_alive() and time.monotonic() < deadline and not answers:
            thread.join(0.05)
    return [server for index, server in enumerate(servers) if index in answers]
