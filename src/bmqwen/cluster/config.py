"""What a fleet serves: the file of `bmqwen cluster serve`."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bmqwen.errors import InputError
from bmqwen.quant import Format
from bmqwen.quant.precision import Precision
from bmqwen.runtime.registry import EngineName
from bmqwen.version import __version__


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Scale(_Section):
    """Between how many replicas Ray chooses, by how many requests they have.

    Attributes:
        requests: that each replica is to have, on average, running and waiting.
        up_seconds: more than that for so long starts more replicas.
        down_seconds: less than that for so long ends some.
    """

    min: int = Field(default=1, ge=0)
    max: int = Field(ge=1)
    requests: float = Field(default=8, gt=0)
    up_seconds: float = Field(default=10, ge=0)
    down_seconds: float = Field(default=300, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> "Scale":
        if self.min > self.max:
            raise ValueError("min is larger than max")
        return self


class FleetModel(_Section):
    """One model, and the engines that answer for it.

    Attributes:
        model: as for `bmqwen serve`; a path must be there on every node.
        name: in requests; the model's own if empty.
        chip: Ray's name of a chip, as nodes were started with it. Empty: the CPU.
        chips: of a node, that each replica takes; as many as its model was compiled for.
        replicas: how many, or between how many.
        threads: processor cores of a replica without a chip.
        queue: requests that may wait at a replica.
        update: changing it replaces all replicas, one after the other, also where nothing else changed.
    """

    model: str = ""
    name: str = ""
    quant: Format = "int4"
    group_size: int = 64
    lm_head: Format | None = None
    engine: EngineName = "auto"
    chip: str = ""
    chips: int = Field(default=1, ge=1)
    replicas: int | Scale = 1
    threads: int = Field(default=4, ge=1, le=256)
    sequences: int | None = Field(default=None, ge=1, le=64)
    context: int | None = Field(default=None, ge=1)
    cache_mb: int = Field(default=1024, ge=0)
    draft: Literal["auto", "off"] = "auto"
    reproducible: bool = False
    queue: int = Field(default=32, ge=0)
    hang_seconds: float = Field(default=300, ge=1)
    load_seconds: float = Field(default=900, ge=1)
    update: str = ""

    @property
    def precision(self) -> Precision:
        """How it is stored. Raises InputError for what does not fit together."""
        return Precision.choose(self.quant, self.group_size, self.lm_head)

    @property
    def fewest(self) -> int:
        """Replicas that there are at least."""
        return self.replicas if isinstance(self.replicas, int) else self.replicas.min

    @property
    def identity(self) -> str:
        """Changes when answers, or the tokens of prompts, may: replicas of an update are told apart by it."""
        same = self.model_dump(
            exclude={"chip", "chips", "replicas", "threads", "queue", "hang_seconds", "load_seconds"}
        )
        return hashlib.sha256(json.dumps([same, __version__], sort_keys=True).encode()).hexdigest()[:16]

    @property
    def deployment(self) -> str:
        """Name of its deployment."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.name or self.model or "demo")


class Front(_Section):
    """The processes that take requests in.

    Attributes:
        replicas: how many.
        cpus: processor cores of each.
        resources: Ray's resources of each, to keep them on some nodes.
    """

    replicas: int = Field(default=1, ge=1)
    cpus: float = Field(default=1, ge=0)
    resources: dict[str, float] = {}


class FleetConfig(_Section):
    """A fleet.

    Attributes:
        host, port: where each node listens that takes requests in.
        every_node: listen on each node with a replica, not only on the head.
        api_key_file: one key a line; read where the fleet is started.
        insecure_no_key: everybody may use the fleet.
        time_limit: seconds from a request's arrival to the end of its answer.
        answer_seconds: seconds of writing after which an answer ends, where its request does not limit its length.
        stop_seconds: seconds that running answers may take when a replica is to end.
    """

    models: tuple[FleetModel, ...] = Field(min_length=1)
    front: Front = Front()
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    every_node: bool = False
    api_key_file: Path | None = None
    insecure_no_key: bool = False
    cors_origins: tuple[str, ...] = ()
    strict_fields: bool = False
    time_limit: float = Field(default=600, ge=1)
    answer_seconds: float = Field(default=120, ge=1)
    stop_seconds: float = Field(default=30, ge=0)


def read_config(path: Path | str) -> FleetConfig:
    """Read a fleet's file, YAML or JSON. Raises InputError for one that cannot be used, with the place in it."""
    import yaml  # type: ignore[import-untyped]

    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"the configuration {path} cannot be read: {reason}") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise InputError(
            f"{path}{line} is not valid YAML: {getattr(error, 'problem', None) or error}"
        ) from error
    return parse_config(content, str(path))


def parse_config(content: Any, source: str) -> FleetConfig:
    """Check a fleet's configuration. Raises InputError, which names `source` and the key at fault."""
    if not isinstance(content, dict):
        raise InputError(f"{source} is not the configuration of a fleet: it must have the key models")
    try:
        config = FleetConfig.model_validate(content)
        for model in config.models:
            model.precision  # noqa: B018  (raises for what does not fit together)
    except ValidationError as error:
        raise InputError(f"{source}: {_first(error)}") from error
    names = [model.deployment for model in config.models]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{source} has two models named {name}: give one of them another name")
    return config


def _first(error: ValidationError) -> str:
    """The first complaint, in words."""
    # Of the kinds of `replicas`, the one that was tried.
    found = error.errors(include_url=False)
    problem = next((each for each in found if each["loc"][-1:] != ("int",)), found[0])
    place = ""
    for part in problem["loc"]:
        if "Scale" in str(part):  # which of the kinds of `replicas` was tried
            continue
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else str(part)
    if problem["type"] == "extra_forbidden":
        return f"there is no key {place}"
    if problem["type"] == "missing":
        return f"{place} is missing"
    message = problem["msg"].replace("Value error, ", "").replace("Input should be ", "must be ")
    return f"{place}: {message}" if place else message
