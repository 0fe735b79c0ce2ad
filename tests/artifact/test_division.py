"""Layers divided among chips, of the published sizes."""

import pytest

from bmqwen.artifact.division import divide, fewest_parts, part_text
from bmqwen.artifact.footprint import fits, footprint, weight_bytes
from bmqwen.chip.memory import largest_heaps
from bmqwen.chip.spec import DEFAULT_CHIP
from bmqwen.errors import InputError
from bmqwen.hub.known_config import published_config
from bmqwen.model.config import ModelConfig
from bmqwen.quant.precision import Format, Precision
from support.checkpoints import tiny_config


def config_of(name: str) -> ModelConfig:
    """Of a published model."""
    config = published_config(name)
    assert config is not None
    return config


def test_all_layers_and_the_head_are_in_one_part_each() -> None:
    config, precision = config_of("qwen1.5-7b-chat"), Precision("int4", 64, "int4")
    parts = divide(config, precision, 3)
    names = [name for part in parts for name in weight_bytes(part, precision)]
    assert sorted(names) == sorted(weight_bytes(config, precision))
    assert [layer for part in parts for layer in part.layers] == list(range(32))
    assert [part.is_last for part in parts] == [False, False, True]
    # The head is as large as three layers.
    assert [part_text(part) for part in parts] == ["layers 1 to 12", "layers 13 to 24", "layers 25 to 32"]
    sizes = [sum(weight_bytes(part, precision).values()) for part in parts]
    assert max(sizes) < 1.1 * min(sizes)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_in_the_last_part_alone(tied: bool) -> None:
    config, precision = tiny_config(tied=tied), Precision("int4", 32, "int4")
    first, last = (weight_bytes(part, precision) for part in divide(config, precision, 2))
    head = "model.embed_tokens.weight" if tied else "lm_head.weight"
    assert head in last
    assert part_text(divide(config, precision, 2)[1]) == "layer 2"
    assert not {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"} & set(first)


@pytest.mark.parametrize("parts", [0, 3])
def test_more_parts_than_layers_are_refused(parts: int) -> None:
    with pytest.raises(InputError, match=f"--parts {parts} cannot be made: the model has 2 layers"):
        divide(tiny_config(), Precision("f16", 64, "f16"), parts)


@pytest.mark.parametrize(
    ("name", "form", "fewest"),
    [
        ("qwen1.5-7b-chat", "int4", 1),
        ("qwen1.5-7b-chat", "f16", 2),
        ("deepseek-r1-distill-qwen-14b", "int4", 1),
        ("deepseek-r1-distill-qwen-14b", "int8", 2),
    ],
)
def test_fewest_chips(name: str, form: Format, fewest: int) -> None:
    config, precision, heaps = config_of(name), Precision(form, 64, form), largest_heaps(DEFAULT_CHIP.board)
    assert fewest_parts(config, precision, 512, lambda need: fits(need, heaps)) == fewest
    for part in divide(config, precision, fewest):
        assert fits(footprint(part, precision, 512), heaps)
