"""`bmqwen cluster`: many machines behind one address."""

import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from bmqwen.cli import options
from bmqwen.cli.terminal import note, print_result
from bmqwen.errors import MissingDependencyError
from bmqwen.util.installation import install_command
from bmqwen.util.text import counted

if TYPE_CHECKING:
    from bmqwen.cluster.config import FleetConfig

app = typer.Typer(help="Serve models on the machines of a Ray cluster.", no_args_is_help=True)

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="File with the fleet, YAML or JSON.")]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        envvar="RAY_ADDRESS",
        help="Ray cluster, such as 10.0.0.1:6379; default: the one that this machine belongs to.",
        show_default=False,
    ),
]
Local = Annotated[
    bool, typer.Option("--local", help="Start a Ray cluster of this machine alone, and end it afterwards.")
]


@app.command("serve")
def serve(
    config: Config,
    address: Address = None,
    local: Local = False,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", help="Leave the fleet running and return; Ray's command `serve shutdown` ends it."
        ),
    ] = False,
) -> None:
    """Serve the fleet in CONFIG on a Ray cluster, or update the one that runs there. Ctrl-C ends it."""
    running = _running()
    fleet = _read(config)
    with running.connected(address, local=local):
        _check(fleet)
        note(f"{counted(len(fleet.models), 'model')} \u00b7 starting ...")
        running.start(fleet, note)
        place = f"http://{fleet.host}:{fleet.port}"
        note(f"API {place}/v1 \u00b7 page {place}" + ("" if detach and not local else " \u00b7 Ctrl-C stops"))
        if detach and not local:
            return
        try:
            _wait()
        finally:
            note("stopping: running answers may finish ...")
            running.stop()
    note("stopped")


@app.command("check")
def check(
    config: Config,
    address: Address = None,
    local: Local = False,
    json: options.Json = False,
) -> None:
    """Check CONFIG, and whether the nodes of a Ray cluster can run it: versions, chips, cores, disks."""
    running = _running()
    from dataclasses import asdict

    from bmqwen.cluster.nodes import look_at_nodes
    from bmqwen.cluster.readiness import problems_of

    fleet = _read(config)
    with running.connected(address, local=local):
        found = look_at_nodes()
    problems = list(problems_of(fleet, found))
    lines = [
        f"{node.address}: bmqwen {node.version or 'missing'}, {counted(int(node.resources.get('CPU', 0)), 'core')}, "
        f"{counted(node.chips, 'chip')}, {node.free_bytes / 1e9:.0f} GB free"
        for node in found
    ]
    told = {"nodes": [asdict(node) for node in found], "problems": [str(each) for each in problems]}
    print_result(told, lines, as_json=json)
    for each in problems[1:]:
        note(str(each))
    if problems:
        raise problems[0]


def _read(path: Path) -> "FleetConfig":
    from bmqwen.cluster.config import read_config

    return read_config(path)


def _check(fleet: "FleetConfig") -> None:
    from bmqwen.cluster.nodes import look_at_nodes
    from bmqwen.cluster.readiness import require_ready

    require_ready(fleet, look_at_nodes())


def _wait() -> None:
    """Until Ctrl-C or SIGTERM, which `bmqwen` turns into an interrupt."""
    while True:
        time.sleep(3600)


def _running() -> ModuleType:
    """Import what drives Ray. Raises MissingDependencyError where it is not installed."""
    try:
        from bmqwen.cluster import running
    except ImportError as error:
        raise MissingDependencyError(f"a fleet needs {error.name}: {install_command('cluster')}") from error
    return running
