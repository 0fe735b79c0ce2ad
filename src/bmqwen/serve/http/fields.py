"""Fields that many clients send: which are accepted without effect, which are other names, which are refused and why.

Nothing that would change an answer is ignored. What cannot change it is accepted, and named in the header
`x-bmqwen-ignored`. All addresses share these tables.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, create_model

from bmqwen.errors import RequestError
from bmqwen.generate.params import PARAMETERS, Parameter


def _must_be(wanted: bool) -> AfterValidator:
    def check(value: bool) -> bool:
        if value is not wanted:
            raise ValueError(f"input should be {wanted}".lower())
        return value

    return AfterValidator(check)


On = Annotated[bool, _must_be(True), WithJsonSchema({"const": True})]
Zero = Annotated[float, Field(ge=0, le=0)]
One = Annotated[float, Field(ge=1, le=1)]
Off = Annotated[bool, _must_be(False), WithJsonSchema({"const": False})]


class Unused(NamedTuple):
    """The type of a field without effect, and the values that ask for what happens anyway, which are not reported."""

    kind: Any
    neutral: tuple[Any, ...] = ()


UNUSED: Mapping[str, Unused] = {
    "add_generation_prompt": Unused(On, (True,)),
    "add_special_tokens": Unused(bool, (False,)),
    "best_of": Unused(Annotated[int, Field(ge=1, le=1)], (1,)),
    "cache_prompt": Unused(bool, (True,)),
    "continue_final_message": Unused(Off, (False,)),
    "detokenize": Unused(On, (True,)),
    "drop_params": Unused(bool),
    "dry_allowed_length": Unused(int),
    "dry_base": Unused(float),
    "dry_multiplier": Unused(Zero, (0,)),
    "dry_penalty_last_n": Unused(int),
    "dry_sequence_breakers": Unused(list[str]),
    "dynatemp_exponent": Unused(float),
    "dynatemp_range": Unused(Zero, (0,)),
    "id_slot": Unused(int, (-1,)),
    "ignore_eos": Unused(Off, (False,)),
    "include_stop_str_in_output": Unused(Off, (False,)),
    "keep_alive": Unused(str | int | float),
    "metadata": Unused(dict[str, Any], ({},)),
    "min_tokens": Unused(Annotated[int, Field(ge=0, le=0)], (0,)),
    "mirostat": Unused(Annotated[int, Field(ge=0, le=0)], (0,)),
    "mirostat_eta": Unused(float),
    "mirostat_tau": Unused(float),
    "n_keep": Unused(int),
    "prediction": Unused(dict[str, Any]),
    "priority": Unused(int, (0,)),
    "prompt_cache_key": Unused(str),
    "prompt_cache_retention": Unused(str),
    "reasoning_effort": Unused(str),
    "request_id": Unused(str),
    "return_progress": Unused(bool, (False,)),
    "service_tier": Unused(str, ("auto", "default")),
    "skip_special_tokens": Unused(On, (True,)),
    "spaces_between_special_tokens": Unused(bool, (True,)),
    "store": Unused(bool, (False,)),
    "t_max_prompt_ms": Unused(int | float),
    "tfs_z": Unused(One, (1,)),
    "timings_per_token": Unused(bool, (False,)),
    "typical_p": Unused(One, (1,)),
    "use_beam_search": Unused(Off, (False,)),
    "verbosity": Unused(str, ("medium",)),
    "xtc_probability": Unused(Zero, (0,)),
    "xtc_threshold": Unused(float),
}
# Of texts that are only continued: no chat template makes their prompts.
CHAT_ONLY: Mapping[str, Unused] = {
    "chat_template_kwargs": Unused(dict[str, Any], ({},)),
    "enable_thinking": Unused(bool, (False,)),
    "thinking_budget": Unused(int),
}
TOKENIZE_UNUSED: Mapping[str, Unused] = {
    name: UNUSED[name] for name in ("add_special_tokens", "add_generation_prompt", "continue_final_message")
}
STREAM_UNUSED: Mapping[str, Unused] = {
    "include_obfuscation": Unused(bool, (False,)),
    "continuous_usage_stats": Unused(bool, (False,)),
}

_SCHEMA = 'for answers in a given form use response_format with the type "json_schema"'
_SAMPLERS = f"this server has {', '.join(row.name for row in PARAMETERS)}"
_TEMPLATE = (
    "the model's own chat template makes the prompt: for another, send the finished prompt to /v1/completions"
)
_NO_SOUND = "this model neither hears nor speaks: send text"
# Fields that would change an answer in a way that this server does not have, and what to do instead.
REFUSED: Mapping[str, str] = {
    "allowed_token_ids": "use logit_bias",
    "audio": _NO_SOUND,
    "bad_words": "use logit_bias",
    "best_of": "use n, and choose yourself",
    "chat_template": _TEMPLATE,
    "documents": "put the documents into a message",
    "dry_multiplier": _SAMPLERS,
    "dynatemp_range": _SAMPLERS,
    "function_call": "use tool_choice",
    "functions": "use tools",
    "grammar": _SCHEMA,
    "guided_choice": _SCHEMA,
    "guided_grammar": _SCHEMA,
    "guided_json": _SCHEMA,
    "guided_regex": _SCHEMA,
    "images": "this model takes no pictures",
    "input": "this field belongs to /v1/responses; send messages",
    "json_schema": _SCHEMA,
    "logits_processors": "use logit_bias",
    "lora": "serve the model with --adapter",
    "min_tokens": "leave it out",
    "mirostat": _SAMPLERS,
    "options": "this field belongs to /api/chat; name the sampling parameters themselves",
    "prompt_logprobs": "use echo with logprobs on /v1/completions",
    "repeat_last_n": _SAMPLERS,
    "structured_outputs": _SCHEMA,
    "tfs_z": _SAMPLERS,
    "thread": "this server keeps no threads: send the whole conversation as messages",
    "typical_p": _SAMPLERS,
    "use_beam_search": _SAMPLERS,
    "web_search_options": "this server does not search the web",
    "xtc_probability": _SAMPLERS,
}
PARTS_REFUSED: Mapping[str, str] = {
    "image_url": "this model takes no pictures",
    "image": "this model takes no pictures",
    "input_image": "this model takes no pictures",
    "video_url": "this model takes no pictures",
    "input_audio": _NO_SOUND,
    "audio_url": _NO_SOUND,
    "file": "this server reads no files: send their text",
    "input_file": "this server reads no files: send their text",
    "document": "this server reads no files: send their text",
}


class RequestModel(BaseModel):
    """A request or a part of one. No guessing of types ("0.5" is not a number); an unknown field may only be null."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())
    __pydantic_extra__: dict[str, None]

    unused: ClassVar[Mapping[str, Unused]] = {}

    def ignored(self) -> list[str]:
        """Return the names of fields that are there and that no answer depends on, such as "messages[].name"."""
        found: dict[str, None] = {}
        extra = self.model_extra or {}
        for name in (*type(self).model_fields, *extra):
            value = getattr(self, name, None)
            row = self.unused.get(name)
            if name in extra or (row is not None and value is not None and value not in row.neutral):
                found[name] = None
            elif isinstance(value, RequestModel):
                found.update(dict.fromkeys(f"{name}.{inner}" for inner in value.ignored()))
            elif isinstance(value, list):
                parts = (part for part in value if isinstance(part, RequestModel))
                found.update({f"{name}[].{inner}": None for part in parts for inner in part.ignored()})
        return list(found)


class OpenModel(RequestModel):
    """A part of a request in which clients keep notes of their own: unknown fields may have any value."""

    __pydantic_extra__: dict[str, Any]


Body = TypeVar("Body", bound=RequestModel)


def accepting(rows: Mapping[str, Unused]) -> Callable[[type[Body]], type[Body]]:
    """Return a decorator that adds fields without effect to a request."""

    def decorate(body: type[Body]) -> type[Body]:
        about = "Accepted without effect."
        made = extended(
            body, {name: (row.kind | None, Field(None, description=about)) for name, row in rows.items()}
        )
        made.unused = {**body.unused, **rows}
        return made

    return decorate


def extended(body: type[Body], definitions: Mapping[str, Any]) -> type[Body]:
    """Return a request with more fields, given as pydantic's `create_model` takes them, and all else as it is."""
    more: dict[str, Any] = dict(definitions)
    return create_model(
        body.__name__, __base__=body, __module__=body.__module__, __doc__=body.__doc__, **more
    )


def named_once(body: BaseModel, row: Parameter) -> Any:
    """Return the value of a sampling parameter by whatever name a request has it; None if it has none.

    Raises RequestError where two names have different values.
    """
    given: dict[str, Any] = {}
    for known in (row.name, *row.aliases):
        value = getattr(body, known, None)
        value = row.default if row.unlimited and value == -1 else value
        if value is not None:
            given[known] = value
    first = next(iter(given), "")
    for other, value in given.items():
        if value != given[first]:
            raise RequestError(f"{first} and {other} mean the same thing, but differ: leave one out", first)
    return given.get(first)
