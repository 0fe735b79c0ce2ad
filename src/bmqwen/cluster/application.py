"""A fleet as an application of Ray Serve's."""

import hashlib
import os
import pickle
from collections.abc import Sequence
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.util import get_node_ip_address

from bmqwen.cluster.config import FleetConfig, FleetModel, Scale
from bmqwen.cluster.engine_replica import EngineReplica
from bmqwen.cluster.front import Front
from bmqwen.cluster.router import PrefixRouter
from bmqwen.errors import InputError
from bmqwen.serve.http.keys import ApiKeys
from bmqwen.serve.http.server import is_local
from bmqwen.version import __version__

KEY_VARIABLE = "BMQWEN_API_KEY"
# How often replicas tell the router of themselves.
STATS_SECONDS = 2.0
HEALTH_SECONDS = 5.0
# How often a replica is started that cannot be loaded, before the deployment has failed.
MOST_STARTS = 2
# A replica takes what its own queue takes; Ray's is for when there is none.
MOST_SEQUENCES = 64
MOST_FRONT_REQUESTS = 1000


def build(config: FleetConfig, engine: type = EngineReplica) -> Application:
    """Return the application, with engines of a class.

    Raises InputError for keys that cannot be read, or for none where others reach the fleet.
    """
    given = os.environ.get(KEY_VARIABLE)
    keys = ApiKeys.read([given] if given else [], config.api_key_file)
    if not (keys or config.insecure_no_key or is_local(config.host)):
        raise InputError(
            f"other machines can reach this fleet on {config.host}: give it API keys with api_key_file or "
            f"{KEY_VARIABLE}, or let everybody use it with insecure_no_key: true"
        )
    engines = [_engine(config, model, engine) for model in config.models]
    # What of the models the processes in front depend on: they are replaced when it changes.
    models = tuple(
        model.model_copy(update={"replicas": model.fewest, "threads": 1}) for model in config.models
    )
    front = serve.deployment(
        name="front",
        num_replicas=config.front.replicas,
        ray_actor_options={"num_cpus": config.front.cpus, "resources": dict(config.front.resources)},
        max_ongoing_requests=MOST_FRONT_REQUESTS,
        graceful_shutdown_timeout_s=config.stop_seconds,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=HEALTH_SECONDS,
        max_constructor_retry_count=MOST_STARTS,
    )(Front)
    settings = config.model_copy(update={"models": models, "port": 8000})
    return _bound(front, settings.model_dump_json(), keys, handles=engines)


def _bound(deployment: Any, *arguments: Any, handles: Sequence[Application] = ()) -> Application:
    """The deployment with its arguments, and with a version by them.

    Ray makes one up otherwise, and replaces all replicas whenever a fleet is served again.
    """
    version = hashlib.sha256(pickle.dumps([__version__, arguments])).hexdigest()
    application: Application = deployment.options(version=version, _internal=True).bind(*arguments, *handles)
    return application


def _engine(config: FleetConfig, model: FleetModel, engine: type) -> Application:
    scale = model.replicas
    scaling: dict[str, Any] = {"num_replicas": scale}
    if isinstance(scale, Scale):
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=scale.min,
                max_replicas=scale.max,
                target_ongoing_requests=scale.requests,
                upscale_delay_s=scale.up_seconds,
                downscale_delay_s=scale.down_seconds,
            )
        }
    needs: dict[str, Any] = {"num_cpus": 1 if model.chip else model.threads}
    if model.chip:
        needs["resources"] = {model.chip: model.chips}
    deployment = serve.deployment(
        name=model.deployment,
        ray_actor_options=needs,
        max_ongoing_requests=model.queue + MOST_SEQUENCES,
        graceful_shutdown_timeout_s=config.stop_seconds,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=HEALTH_SECONDS,
        max_constructor_retry_count=MOST_STARTS,
        request_router_config=RequestRouterConfig(
            request_router_class=PrefixRouter,
            request_router_kwargs={"alone": config.front.replicas == 1},
            request_routing_stats_period_s=STATS_SECONDS,
        ),
        **scaling,
    )(engine)
    # More replicas, or fewer, are no reason to replace them.
    content = model.model_copy(update={"replicas": 1}).model_dump_json()
    return _bound(deployment, content, __version__, config.time_limit, get_node_ip_address)
