"""The server's application as a deployment of Ray's, which takes requests in."""

import asyncio
import logging
from dataclasses import replace
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from bmqwen.cluster.carried_body import CarriedBody
from bmqwen.cluster.config import FleetConfig, FleetModel
from bmqwen.cluster.model_card import ModelCard
from bmqwen.cluster.pool import RayPool
from bmqwen.errors import InputError
from bmqwen.serve.defaults import Limits
from bmqwen.serve.http.app import create_app
from bmqwen.serve.http.keys import ApiKeys
from bmqwen.serve.http.middleware import LOCAL_NAMES, AccessRules
from bmqwen.serve.http.server import is_local
from bmqwen.serve.service import Service, Services


@serve.ingress()
class Front:
    """Answers HTTP as the embedded server does; the engines behind it are replicas of other deployments."""

    async def __init__(  # type: ignore[misc]
        self,
        text: str,
        keys: ApiKeys,
        *handles: DeploymentHandle[Any],
    ) -> None:
        """Wait for an engine of each model in `text`, a FleetConfig in JSON.

        Raises InputError for two models of one name.
        """
        _log()
        config = FleetConfig.model_validate_json(text)
        models = config.models
        cards = await asyncio.gather(
            *(
                handle.describe.remote(model=model.identity)
                for model, handle in zip(models, handles, strict=True)
            )
        )
        name = serve.get_replica_context().replica_id.unique_id
        services = [
            _service(config, model, card, handle, {"front": name})
            for model, card, handle in zip(models, cards, handles, strict=True)
        ]
        names = [service.model.name for service in services]
        for each in names:
            if names.count(each) > 1:
                raise InputError(f"two models have the name {each}: give one of them another name")
        local = is_local(config.host) and not keys
        rules = AccessRules(
            keys,
            hosts=frozenset({*LOCAL_NAMES, config.host}) if local else None,
            origins=config.cors_origins,
        )
        all_services = Services(services, strict_fields=config.strict_fields, labels={"front": name})
        self._app = CarriedBody(create_app(all_services, rules))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the application."""
        return self._app


def _service(
    config: FleetConfig,
    model: FleetModel,
    card: ModelCard,
    handle: DeploymentHandle[Any],
    labels: dict[str, str],
) -> Service:
    limits = Limits(queue=model.queue * model.fewest, seconds=config.time_limit)
    defaults = replace(card.defaults, seconds=config.answer_seconds)
    served = card.model(model.name or card.name, defaults, limits)
    pool = RayPool(handle, card, model.identity, seconds=config.time_limit)
    return Service(served, pool, labels={"model": served.name, **labels})


def _log() -> None:
    """Lines of the server go to this process's log."""
    log = logging.getLogger("bmqwen")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
