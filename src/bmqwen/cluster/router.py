"""Ray's request router for engines: a conversation goes where its beginning was read, a new one where little is done.

It runs in each process that takes requests in. What it routed itself it knows at once; what others did, from what
replicas tell of themselves every few seconds (Ray's routing statistics).
"""

import heapq
import time
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from bmqwen.cluster.choice import Candidate, Speed, ranked
from bmqwen.cluster.known_routers import register
from bmqwen.cluster.prefixes import STRIDE, KnownBeginnings, landmarks

# How long a request may be on its way to the replica that was chosen for it.
ON_ITS_WAY_SECONDS = 5.0
# Replicas that Ray may fall back to if the best one refuses.
MOST_CHOICES = 4


class PrefixRouter(RequestRouter):  # type: ignore[misc]
    """Chooses by the time to the first token. Requests have the argument `chain`, their prompt's beginnings."""

    def initialize_state(self, *, alone: bool = True) -> None:
        """Begin without any knowledge; `alone`: no other process sends these replicas requests."""
        self._alone = alone
        self._known: KnownBeginnings[ReplicaID] = KnownBeginnings()
        # Where each request is, since when, and whether it arrived.
        self._placed: dict[str, tuple[ReplicaID, float, bool]] = {}
        register(self._deployment_id.app_name, self._deployment_id.name, self)

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Return the replicas in the order in which they are to be tried."""
        if not candidate_replicas:
            return []
        chain: Sequence[int] = () if pending_request is None else pending_request.kwargs.get("chain", ())
        loads = self._loads()
        model = None if pending_request is None else pending_request.kwargs.get("model")
        replicas = [
            replica
            for replica in candidate_replicas
            if model in (None, replica.replica_metadata.get("model"))
        ]
        # An engine that is being started again answers nobody, unless it is the only one.
        replicas = [
            replica for replica in replicas if replica.routing_stats.get("state", "ready") == "ready"
        ] or replicas
        # Of many, those that know the prompt's beginning and the least loaded ones: no other can be the best.
        cached = self._known.shared(chain)
        compared = [replica for replica in replicas if replica.replica_id in cached]
        others = (replica for replica in replicas if replica.replica_id not in cached)
        compared += heapq.nsmallest(MOST_CHOICES, others, key=lambda replica: self._order(replica, loads))
        candidates = [
            Candidate(*self._order(replica, loads), cached.get(replica.replica_id, 0)) for replica in compared
        ]
        order = ranked(candidates, len(chain) * STRIDE, _speed(compared))
        chosen = [compared[place] for place in order[:MOST_CHOICES]]
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
        if pending_request is not None and chosen:
            # Requests that come before this one has arrived are to see it.
            self._placed[pending_request.metadata.internal_request_id] = (
                chosen[0].replica_id,
                time.monotonic(),
                False,
            )
        return [[replica] for replica in chosen]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """Note where a request went, and that its prompt is known there now."""
        del result
        self._placed[pending_request.metadata.internal_request_id] = (replica_id, time.monotonic(), True)
        self.note(replica_id, pending_request.kwargs.get("chain", ()))

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Note that a replica has a request less."""
        del replica_id
        self._placed.pop(internal_request_id, None)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Forget the replicas that are gone, and learn what the others tell of themselves."""
        super().update_replicas(replicas)
        self._known.keep(replica.replica_id for replica in replicas)
        for replica in replicas:
            self._known.add(replica.replica_id, replica.routing_stats.get("beginnings", ()))

    def note(self, replica_id: ReplicaID, chain: Sequence[int]) -> None:
        """Remember that a replica has read what begins so."""
        self._known.add(replica_id, landmarks(chain))

    def _order(self, replica: RunningReplica, loads: Mapping[ReplicaID, int]) -> tuple[float, int]:
        """Requests that a replica has, and beginnings that it knows."""
        load = loads.get(replica.replica_id, 0)
        if not self._alone:
            # Of what others sent it, it tells itself, a little later.
            load = max(load, replica.routing_stats.get("load", 0))
        return load, self._known.count(replica.replica_id)

    def _loads(self) -> dict[ReplicaID, int]:
        """Requests of this process that each replica has."""
        now = time.monotonic()
        lost = [
            name
            for name, (_, since, arrived) in self._placed.items()
            if not arrived and now - since > ON_ITS_WAY_SECONDS
        ]
        for name in lost:
            del self._placed[name]
        found: dict[ReplicaID, int] = {}
        for replica_id, _, _ in self._placed.values():
            found[replica_id] = found.get(replica_id, 0) + 1
        return found


def _speed(replicas: Sequence[RunningReplica]) -> Speed:
    """The mean of what replicas tell of themselves; before they do, any."""
    told = [replica.routing_stats for replica in replicas if replica.routing_stats.get("sequences")]
    if not told:
        return Speed()
    return Speed(
        told[0]["sequences"],
        fmean(each["read_rate"] for each in told),
        fmean(each["answer_s"] for each in told),
    )
