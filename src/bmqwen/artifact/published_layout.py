"""The publisher's layout, one net a layer: told from others, and the model's sizes read from the shapes of its nets."""

import re
from dataclasses import dataclass

from bmqwen.artifact.bmodel import BmodelDescription, NetDescription, StageDescription
from bmqwen.chip.spec import spec_of
from bmqwen.errors import BundleError

LAYOUT = "sophon-demo"
_NEEDED = ("embedding", "embedding_cache", "block_0", "block_cache_0", "lm_head")


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """What the nets tell of the model.

    Attributes:
        layers, hidden_size, key_value_heads, head_dim: sizes.
        context: rows of the K/V cache.
        vocab_size: width of the logits; None where the nets give a token only.
        half: "f16" or "bf16".
    """

    layers: int
    hidden_size: int
    key_value_heads: int
    head_dim: int
    context: int
    vocab_size: int | None
    half: str


def published_model(bmodel: BmodelDescription) -> PublishedModel:
    """Read the sizes.

    Raises:
        BundleError: the nets are of another kind, or for another chip or for several.
    """
    path, nets = bmodel.path, bmodel.nets
    missing = [name for name in _NEEDED if not nets.get(name) or not nets[name].stages]
    if missing:
        names = ", ".join([*(name[:40] for name in list(nets)[:4]), *(["..."] if len(nets) > 4 else [])])
        if "step" in nets:
            raise BundleError(
                f"{path} is the bmodel of a bundle, which holds its tokenizer and embedding table, too: name the "
                "bundle's folder"
            )
        raise BundleError(
            f"{path} has unknown nets ({names or 'none at all'}; without {missing[0]}): bundles of bmqwen compile and "
            "the publisher's qwen1.5-*.bmodel can be run"
        )
    spec_of(bmodel.chip, path)
    block, step = nets["block_0"].stages[0], nets["block_cache_0"].stages[0]
    if bmodel.chips > 1 or len(step.inputs) > 5:
        raise BundleError(f"{path} was compiled for several chips at once: get the one named ..._1dev.bmodel")
    rows = [*block.inputs[:1], *block.outputs[1:3]]
    if len(rows) < 3 or [len(t.shape) for t in rows] != [3, 4, 4] or len(step.inputs) < 4:
        raise BundleError(
            f"{path}: net block_0 is not a layer of a Qwen model as its publisher compiles them"
        )
    _, context, hidden = rows[0].shape
    return PublishedModel(
        layers=_layers(bmodel),
        hidden_size=hidden,
        key_value_heads=rows[1].shape[2],
        head_dim=rows[1].shape[3],
        context=context,
        vocab_size=_vocabulary(nets["lm_head"].stages[0], nets.get("greedy_head")),
        half=rows[0].dtype,
    )


def _layers(bmodel: BmodelDescription) -> int:
    """How many; BundleError where prompt's and token's nets do not belong together."""
    found = {
        kind: {int(m[1]) for name in bmodel.nets if (m := re.fullmatch(rf"{kind}_(\d+)", name))}
        for kind in ("block", "block_cache")
    }
    layers = len(found["block"])
    if found["block"] != set(range(layers)) or found["block_cache"] != found["block"]:
        raise BundleError(f"{bmodel.path} lacks the nets of some layers: download it again")
    return layers


def _vocabulary(head: StageDescription, greedy: NetDescription | None) -> int | None:
    for tensors in (head.outputs, greedy.stages[0].inputs if greedy and greedy.stages else ()):
        if tensors and tensors[0].shape and tensors[0].shape[-1] > 1:
            return tensors[0].shape[-1]
    return None
