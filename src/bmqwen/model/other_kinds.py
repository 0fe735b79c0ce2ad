"""Kinds of models that are none of ours, told by what their files call them."""

import re
from collections.abc import Iterable, Mapping

_TEXT = "use a text model of the family, such as qwen3-4b (bmqwen list has all)"
# In the order in which they are looked for: a mixture of experts may take pictures as well.
_BY_NAME = {
    r"moe|experts|mixtral|qwen3_?next|^deepseek_?v?[23]": (
        f"a mixture of experts, whose layers are unsupported: {_TEXT.replace('text', 'dense text')}"
    ),
    r"audio|asr|tts|omni|speech|whisper": f"a model of sound, which is unsupported: {_TEXT}",
    r"bert|(?:^|u?m)t5|maskedlm|classification|rewardmodel|^(?:qwen\d|llama)model$|encoder|^eagle": (
        "an encoder, a classifier or a part of a model, which writes no text: use a model that ends in ForCausalLM, "
        "such as qwen3-4b (bmqwen list has all)"
    ),
    r"vl(?![a-z])|vl(?:for|moe)|vision|image|llava|^clip$|mmproj|conditionalgeneration": (
        f"a model of pictures, which is unsupported: {_TEXT}"
    ),
    r"^qwen$|^qwenlmheadmodel$": (
        "the first Qwen, whose network is another one: use its successor, such as qwen1.5-1.8b-chat"
    ),
}
_BY_KEY = {
    "moe": ("num_experts", "num_local_experts", "n_routed_experts"),
    "audio": ("audio_config", "thinker_config"),
    "vision": ("vision_config", "visual"),
    "encoder": ("is_encoder_decoder",),
}


def other_kind(names: Iterable[object], values: Mapping[str, object]) -> str:
    """Return what a model is that is called so, and what to use in its place; empty where nothing tells.

    Args:
        names: config.json's architectures, or GGUF's general.architecture.
        values: of the config.json.
    """
    words = [str(name)[:80].lower() for name in names]
    words += [word for word, keys in _BY_KEY.items() if any(values.get(key) for key in keys)]
    for pattern, kind in _BY_NAME.items():
        if any(re.search(pattern, word) for word in words):
            return kind
    return ""
