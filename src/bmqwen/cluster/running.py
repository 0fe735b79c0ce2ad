"""Starts a fleet on a Ray cluster, and ends it."""

import logging
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions
from ray.serve.schema import ApplicationStatus

from bmqwen.cluster.application import build
from bmqwen.cluster.config import FleetConfig
from bmqwen.cluster.lost_answers import PLACE, VARIABLE
from bmqwen.errors import DeviceError, InputError

NAME = "bmqwen"
# Of Ray's processes that it starts for a fleet. It looks after replicas ten times a second, and has each process count
# as often, which takes 30 ms of a processor in every second; replicas are asked whether they are well every 5 s anyway.
ENVIRONMENT = {
    VARIABLE: PLACE,
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "5000",
    # Its proxy calls the front by gRPC, which takes half as long.
    "RAY_SERVE_PROXY_USE_GRPC": "1",
}
POLL_SECONDS = 0.5
MOST_STARTS = 3
_SENTENCE = re.compile(r"^bmqwen\.errors\.\w+: (.+)$", re.MULTILINE)
_FAILED = (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)


@contextmanager
def connected(address: str | None, *, local: bool = False) -> Iterator[None]:
    """Connect to a running cluster, or with `local` begin one that is only this machine and ends with the body.

    Raises InputError where there is none.
    """
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "configure_logging": False}
    # Ray's library takes SIGTERM for itself, and would print a trace of its own.
    term = signal.getsignal(signal.SIGTERM)
    try:
        if local:
            # Ray's workers are to yield to all else by default; on nodes it is for whoever runs `ray start` to choose.
            os.environ.setdefault("RAY_worker_niceness", "0")
            ray.init(include_dashboard=False, **options)
        else:
            ray.init(address or "auto", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f" at {address}" if address else ""
        raise InputError(
            f"there is no Ray cluster{where}: start one with `ray start --head`, name it with --address, or use this "
            "machine alone with --local"
        ) from error
    signal.signal(signal.SIGTERM, term)
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def start(config: FleetConfig, progress: Callable[[str], None]) -> None:
    """Deploy a fleet, or update the one that is there, and wait until all of it is there.

    `progress` gets a line whenever there is something new to tell.

    Raises DeviceError, with what a replica said, for a fleet that cannot be started.
    """
    _start_proxies(config)
    serve.run_many(
        [serve.RunTarget(build(config), name=NAME, route_prefix="/")], wait_for_applications_running=False
    )
    told = ""
    while True:
        status = serve.status().applications.get(NAME)
        if status is None:
            raise DeviceError("the fleet was ended by someone else while it was starting")
        if status.status == ApplicationStatus.RUNNING:
            return
        if status.status in _FAILED:
            raise DeviceError(f"the fleet cannot be started: {_reason(status)}")
        if (now := _told(status)) != told:
            told = now
            progress(now)
        time.sleep(POLL_SECONDS)


def _start_proxies(config: FleetConfig) -> None:
    """Have Ray listen. Raises DeviceError where it cannot."""
    for start in range(1, MOST_STARTS + 1):
        try:
            serve.start(
                proxy_location="EveryNode" if config.every_node else "HeadOnly",
                http_options=HTTPOptions(host=config.host, port=config.port),
                controller_options={"runtime_env": {"env_vars": ENVIRONMENT}},
            )
            return
        except RayError as error:  # noqa: PERF203  (it is the few starts that are tried)
            # On a machine with too much to do, Ray gives a proxy up that is merely slow, and begins another one.
            if start == MOST_STARTS:
                raise DeviceError(
                    f"Ray cannot listen on {config.host}, port {config.port}: another program may be using it, or the "
                    "node is too busy; choose another port, or see Ray's logs"
                ) from error


def stop() -> None:
    """End the fleet: answers under way may finish first."""
    serve.delete(NAME)


def _told(status: Any) -> str:
    """How many replicas of each deployment are there, and what keeps others away."""
    deployments = status.deployments
    parts = [
        f"{name} {deployment.replica_states.get('RUNNING', 0)}/{sum(deployment.replica_states.values())}"
        for name, deployment in deployments.items()
    ]
    waits = [each.message for each in deployments.values() if "Resources required" in each.message]
    return " \u00b7 ".join([*parts, *waits[:1]])


def _reason(status: Any) -> str:
    """The sentence of our own error in what Ray says of it, else Ray's last line."""
    said = "\n".join([*(deployment.message for deployment in status.deployments.values()), status.message])
    if found := _SENTENCE.search(said):
        return found[1]
    return next((line for line in reversed(said.splitlines()) if line.strip()), "Ray does not say why")
