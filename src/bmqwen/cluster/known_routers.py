"""The routers of this process: Ray makes them where it needs them, and copies the code of their own module to there."""

from collections.abc import Mapping
from typing import Any, Protocol


class KnownReplica(Protocol):
    """A replica, as Ray tells of it."""

    @property
    def replica_id(self) -> Any:
        """Its name, in `unique_id`."""

    @property
    def replica_metadata(self) -> Mapping[str, Any]:
        """What `record_replica_metadata` of it returned."""

    @property
    def routing_stats(self) -> Mapping[str, Any]:
        """What `record_routing_stats` of it returned last."""


class Router(Protocol):
    """What the pool asks a router for."""

    @property
    def curr_replicas(self) -> Mapping[Any, KnownReplica]:
        """The replicas that Ray has."""


_ROUTERS: dict[tuple[str, str], Router] = {}


def register(app: str, deployment: str, router: Router) -> None:
    """Make a router known."""
    _ROUTERS[app, deployment] = router


def replicas_of(app: str, deployment: str) -> list[KnownReplica]:
    """Return the replicas of a deployment; none before a router of this process was asked for one."""
    router = _ROUTERS.get((app, deployment))
    return [] if router is None else list(router.curr_replicas.values())
