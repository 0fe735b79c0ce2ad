"""Many machines behind one address, on Ray Serve: the server's application in front of engines on every node.

Placement, discovery, restarts, autoscaling and calls between machines are Ray's; nothing outside this room imports it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve import Application


def app(args: dict[str, Any]) -> "Application":
    """Build the application for `serve deploy` and `serve run`: import_path "bmqwen.cluster:app".

    Args:
        args: {"config": FILE}, or what such a file has.

    Raises InputError for a configuration that cannot be used.
    """
    from bmqwen.cluster.application import build
    from bmqwen.cluster.config import parse_config, read_config

    if set(args) == {"config"}:
        return build(read_config(args["config"]))
    return build(parse_config(args, "the application's args"))
