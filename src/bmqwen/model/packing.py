"""How the weights of a GPTQ or AWQ checkpoint are packed, by its config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bmqwen.errors import ConfigError
from bmqwen.util.json_file import read_json_object

GROUP_SIZES = (32, 64, 128, 256)
_OWN_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}


@dataclass(frozen=True, slots=True)
class Packing:
    """weight[n, k] = (code[n, k] - zero[n, g]) * scale[n, g], several codes in a 32-bit word.

    Attributes:
        method: GPTQ packs codes along k, AWQ along n in an order of its own.
        bits: of a code.
        group_size: columns k that share a scale.
        zero_offset: what is added to a stored zero point.
        mixed: whether some matrices have other bits and groups, which their shapes tell (GPTQModel's `dynamic`).
        made_by: how the grid was found, where that is stated.
    """

    method: Literal["gptq", "awq"]
    bits: int
    group_size: int
    zero_offset: int
    mixed: bool = False
    made_by: str | None = None

    def __str__(self) -> str:
        return f"{self.method.upper()} int{self.bits} group {self.group_size}"


def read_packing(values: Mapping[str, object], source: str, folder: Path | None = None) -> Packing | None:
    """Return the packing that a config.json names; None for weights that are not packed.

    Args:
        values: of the config.json.
        source: its name, for messages.
        folder: where a file of its own may say it instead, as AutoGPTQ and AutoAWQ wrote it.

    Raises:
        ConfigError: a method, or a variant of one, that is not supported; such a file that is damaged.
    """
    stated = values.get("quantization_config")
    source = f"{source}: quantization_config"
    if stated is None:
        path = next((p for name in _OWN_FILES if folder and (p := folder / name).is_file()), None)
        if path is None:
            return None
        found, source = read_json_object(path, ConfigError), str(path)
        # The programs wrote these files before there was another method to name.
        stated = {
            "quant_method": _OWN_FILES[path.name],
            "bits": found.get("w_bit"),
            "group_size": found.get("q_group_size"),
            **found,
        }
    if not isinstance(stated, dict):
        raise ConfigError(f"{source} must be an object")
    method = stated.get("quant_method")
    if method not in ("gptq", "awq"):
        raise ConfigError(
            f"{source} with quant_method = {str(method)[:40]!r} is unsupported; "
            "use a GPTQ or AWQ checkpoint, or the one that is not quantised"
        )
    bits, group = stated.get("bits"), stated.get("group_size")
    widths = (4, 8) if method == "gptq" else (4,)
    if not (isinstance(bits, int) and isinstance(group, int) and bits in widths and group in GROUP_SIZES):
        raise ConfigError(
            f"{source} with bits = {str(bits)[:20]} and group_size = {str(group)[:20]} is "
            f"unsupported for {method.upper()}; supported are 4 bits (GPTQ: also 8) and groups of "
            f"{', '.join(map(str, GROUP_SIZES))}"
        )
    if method == "awq":
        version = stated.get("version", "gemm")
        if str(version).lower() != "gemm" or stated.get("zero_point", True) is not True:
            raise ConfigError(
                f"{source}: AWQ of version {str(version)[:20]!r} is unsupported; use one of version 'gemm' with "
                "zero points, or the checkpoint that is not quantised"
            )
        return Packing("awq", bits, group, 0)
    # The first format of GPTQ stores zero points less one.
    offset = 0 if stated.get("checkpoint_format") == "gptq_v2" else 1
    meta = stated.get("meta")
    made_by = str(meta["method"])[:100] if isinstance(meta, dict) and "method" in meta else None
    return Packing("gptq", bits, group, offset, bool(stated.get("dynamic")), made_by)
