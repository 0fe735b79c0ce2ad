"""What was published for this job: the rows of the vendor's tables for the usual box."""

from dataclasses import dataclass

from bmqwen.quant.precision import Format


@dataclass(frozen=True, slots=True)
class Published:
    """A row, measured with a prompt of about 26 tokens.

    Attributes:
        model: short name.
        form: format of the weights.
        context: tokens that its prompt net reads, and of its K/V cache.
        first_token_s, tokens_per_s: as published.
        known_nets: how its nets were made is known; `benchmarks/published_recipe.py` makes their like.
    """

    model: str
    form: Format
    context: int
    first_token_s: float
    tokens_per_s: float
    known_nets: bool = True


PUBLISHED = (
    Published("qwen1.5-1.8b-chat", "int4", 512, 0.191, 31.863),
    Published("qwen1.5-1.8b-chat", "int8", 512, 0.177, 22.117),
    Published("qwen1.5-4b-chat", "int4", 512, 0.379, 15.526),
    Published("qwen1.5-7b-chat", "int4", 512, 0.728, 10.151),
    Published("qwen2.5-1.5b-instruct", "int4", 512, 0.185, 41.078, known_nets=False),
    Published("qwen2.5-7b-instruct", "int4", 512, 0.652, 10.26, known_nets=False),
    Published("qwen1.5-7b-chat", "int4", 2048, 3.234, 7.083, known_nets=False),
)


def find_published(model: str, form: Format, context: int) -> Published | None:
    """Return the row of a model, if it has one."""
    return next((p for p in PUBLISHED if (p.model, p.form, p.context) == (model, form, context)), None)
