"""How the weights of a quantised checkpoint are stored, by its config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bmqwen.errors import ConfigError
from bmqwen.util.json_file import read_json_object

_OWN_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
_TITLES = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "auto-round": "AutoRound",
    "compressed-tensors": "compressed-tensors",
    "fp8": "FP8",
}
_SPELLINGS = {
    "auto_round": "auto-round",
    "intel/auto-round": "auto-round",
    "compressed_tensors": "compressed-tensors",
}
# What says how a grid was found or how other programs compute with it, and changes no weight.
_WITHOUT_EFFECT = """
    act_bits act_data_type act_dynamic act_group_aware act_group_size act_sym activation_scheme amp autoround_version
    awq_gemm_checkpoint backend batch_size block_name_to_quantize cache_block_outputs cache_examples_on_gpu damp_percent
    dataset dequantize desc_act disable_exllama do_fuse enable_alg_ext enable_minmax_tuning enable_norm_bias_tuning
    enable_quanted_input exllama_config fallback failsafe fuse_max_seq_len global_compression_ratio
    gradient_accumulate_steps hyb_act ignore ignored_layers iters kv_cache_scheme lm_head low_gpu_mem_usage lr
    max_input_length meta minmax_lr model_file_base_name model_name_or_path model_seqlen modules_in_block_to_quantize
    modules_to_convert modules_to_fuse modules_to_not_convert module_name_preceding_first_block nsamples offload_to_disk
    pack_dtype pad_token_id provider quantization_status run_compressed scale_dtype seqlen static_attention_dtype
    static_attention_granularity static_groups static_kv_dtype static_kv_granularity supported_types
    quant_block_list to_quant_block_names mse damp_auto_increment gptaq gptaq_alpha v2 v2_alpha
    tokenizer true_sequential use_cuda_fp16 use_exllama use_optimized_inference version_str
    """
_READ = {
    "gptq": "bits group_size sym checkpoint_format format is_marlin_format dynamic w_bit q_group_size wbits",
    "awq": "bits group_size sym zero_point version checkpoint_format format w_bit q_group_size dynamic",
    "auto-round": "bits group_size sym packing_format data_type extra_config dynamic",
    "compressed-tensors": "format config_groups sparsity_config transform_config version",
    "fp8": "weight_block_size scale_fmt expert_dtype fmt weight_dtype bits data_type group_size sym extra_config",
}


@dataclass(frozen=True, slots=True)
class Packing:
    """weight[n, k] = (code[n, k] - zero[n, g]) * scale[n, g], with codes in 32-bit words or in bytes.

    Attributes:
        method: how config.json calls the form.
        layout: how a matrix X is stored. "gptq": X.qweight with words along k, X.qzeros along n, X.scales; "awq": the
            same with words along n, in an order of their own; "compressed": X.weight_packed with words along k,
            X.weight_scale; "scaled": X.weight of one byte each, X.weight_scale or X.weight_scale_inv.
        bits: of a code; 0: the tensors tell.
        group_size: columns k that share a scale; -1: all of a row; 0: the tensors tell.
        zero_offset: what is added to a stored zero point.
        symmetric: whether all zero points are stated to lie in the middle.
        mixed: whether some matrices have other bits and groups, which their shapes tell.
        block: rows and columns of the blocks that share a scale, where these are stated.
        made_by: how the grid was found, where that is stated.
        largest_activation: what the model computed on calibration text at most, where that is stated.
    """

    method: str
    layout: Literal["gptq", "awq", "compressed", "scaled"]
    bits: int = 0
    group_size: int = 0
    zero_offset: int = 0
    symmetric: bool = False
    mixed: bool = False
    block: tuple[int, int] | None = None
    made_by: str | None = None
    largest_activation: float = 0.0

    @property
    def title(self) -> str:
        """What people call the method."""
        return _TITLES[self.method]

    def label(self, bits: int, group_size: int) -> str:
        """Return what to call a matrix that is stored so."""
        return f"{self.title} int{bits} group {group_size}"

    def __str__(self) -> str:
        if not self.bits:
            return self.title
        return (
            self.label(self.bits, self.group_size) if self.group_size > 0 else f"{self.title} int{self.bits}"
        )


def read_packing(values: Mapping[str, object], source: str, folder: Path | None = None) -> Packing | None:
    """Return the packing that a config.json names; None for weights that are not packed.

    Args:
        values: of the config.json.
        source: its name, for messages.
        folder: where a file of its own may say it instead, as AutoGPTQ and AutoAWQ wrote it.

    Raises:
        ConfigError: a method, or a variant of one, that is not supported; a key that is not known; such a file that
            is damaged.
    """
    # The earlier name of compressed-tensors' is the second one.
    stated = values.get("quantization_config", values.get("compression_config"))
    source = f"{source}: quantization_config"
    if stated is None:
        path = next((p for name in _OWN_FILES if folder and (p := folder / name).is_file()), None)
        if path is None:
            return None
        stated, source = dict(read_json_object(path, ConfigError)), str(path)
        # The programs wrote these files before there was another method to name.
        stated.setdefault("quant_method", _OWN_FILES[path.name])
    if not isinstance(stated, dict):
        raise ConfigError(f"{source} must be an object")
    return _Stated(stated, source).packing()


class _Stated:
    """What a quantization_config says."""

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self._values, self._source = values, source
        name = str(values.get("quant_method", values.get("method"))).lower()
        self._method = _SPELLINGS.get(name, name)

    def packing(self) -> Packing | None:
        """Read it. Raises ConfigError."""
        if self._method not in _READ:
            raise self._error(
                f"with quant_method = {_shown(self._values.get('quant_method'))} is unsupported",
                f"a checkpoint of {', '.join(_TITLES.values())}",
            )
        known = {*_WITHOUT_EFFECT.split(), *_READ[self._method].split(), "quant_method", "method"}
        for key, value in self._values.items():
            # A switch that is off, whatever it is of, changes nothing.
            if key not in known and value not in (None, False, "", [], {}):
                raise self._error(
                    f"has the key {str(key)[:60]!r}, which is not known and may change the weights",
                    f"a checkpoint of {self._title} without it",
                )
        readers = {"compressed-tensors": self._compressed, "fp8": self._fp8, "awq": self._awq}
        return readers.get(self._method, self._gptq)()

    @property
    def _title(self) -> str:
        return _TITLES[self._method]

    def _gptq(self) -> Packing:
        values = self._values
        layout: Literal["gptq", "awq"] = "gptq"
        if self._method == "auto-round":
            packing = str(values.get("packing_format", values.get("backend", "auto_round:auto_gptq"))).lower()
            if values.get("data_type", "int") != "int" or not packing.startswith("auto_round"):
                raise self._error(
                    f"with data_type = {str(values.get('data_type', 'int'))[:40]!r} and packing_format = "
                    f"{packing[:40]!r} is unsupported",
                    "an export of AutoRound with int weights",
                )
            layout = "awq" if "awq" in packing else "gptq"
            # Its own packing, and GPTQModel's, have zero points as they are.
            offset = int(layout == "gptq" and "gptq" in packing and "gptqmodel" not in packing)
        else:
            form = str(values.get("checkpoint_format", values.get("format")) or "gptq").lower()
            if form not in ("gptq", "gptq_v2") or values.get("is_marlin_format"):
                found = form if form not in ("gptq", "gptq_v2") else "marlin"
                raise self._error(f"with checkpoint_format = {found[:40]!r} is unsupported", "one of 'gptq'")
            offset = int(form == "gptq")
        bits, group = self._sizes((4,) if layout == "awq" else (2, 3, 4, 5, 6, 7, 8))
        stated = values.get("meta")
        meta: Mapping[str, object] = stated if isinstance(stated, dict) else {}
        largest = meta.get("largest_activation")
        return Packing(
            self._method,
            layout,
            bits,
            group,
            offset,
            symmetric=values.get("sym") is True,
            mixed=bool(values.get("dynamic") or values.get("extra_config")),
            made_by=str(meta["method"])[:100] if "method" in meta else None,
            largest_activation=float(largest) if isinstance(largest, (int, float)) else 0.0,
        )

    def _awq(self) -> Packing:
        version = self._values.get(
            "version", self._values.get("checkpoint_format", self._values.get("format"))
        )
        bits, group = self._sizes((4,))
        if str(version or "gemm").lower() != "gemm":
            raise self._error(f"with version = {str(version)[:20]!r} is unsupported", "one of version 'gemm'")
        # AutoRound says zero_point = false where all of them are 8; they are stored nonetheless.
        return Packing("awq", "awq", bits, group, mixed=bool(self._values.get("dynamic")))

    def _fp8(self) -> Packing:
        bits, data = self._values.get("bits", 8), str(self._values.get("data_type", "fp"))
        if bits != 8 or not data.startswith("fp"):  # AutoRound states them
            raise self._error(
                f"with bits = {str(bits)[:20]} and data_type = {data[:20]!r} is unsupported",
                "one of 8 bits and 'fp8'",
            )
        kind = self._values.get("fmt", self._values.get("weight_dtype", "e4m3"))
        if "e4m3" not in str(kind).lower() or self._values.get("scale_fmt", "float") not in (
            "float",
            None,
            "ue8m0",
        ):
            raise self._error(
                f"with fmt = {str(kind)[:20]!r} and scale_fmt = {str(self._values.get('scale_fmt'))[:20]!r} is "
                "unsupported",
                "one of 'e4m3' with scales that are floats",
            )
        return Packing("fp8", "scaled", block=self._block(self._values.get("weight_block_size")))

    def _compressed(self) -> Packing | None:
        values = self._values
        for key in ("sparsity_config", "transform_config"):
            inner = values.get(key)
            # A sparsity that is only stated has dense tensors.
            if inner and not (isinstance(inner, dict) and inner.get("format", "") == "dense"):
                raise self._error(
                    f"has a {key}, which is unsupported", f"a checkpoint of {self._title} without it"
                )
        groups = values.get("config_groups")
        groups = (
            [group for group in groups.values() if isinstance(group, dict)]
            if isinstance(groups, dict)
            else []
        )
        forms = {str(group.get("format") or values.get("format")) for group in groups} or {
            str(values.get("format"))
        }
        if forms <= {"dense", "fakequant"}:
            return None
        layouts: dict[str, Literal["compressed", "scaled"]] = {
            "pack-quantized": "compressed",
            "int-quantized": "scaled",
            "float-quantized": "scaled",
            "naive-quantized": "scaled",
        }
        if len(forms) != 1 or not forms <= set(layouts):
            raise self._error(
                f"with format = {' and '.join(sorted(forms))[:80]!r} is unsupported",
                f"one of {', '.join(layouts)}",
            )
        layout = layouts[forms.pop()]
        weights = [group.get("weights") for group in groups]
        sizes = {
            (_shown(w.get("num_bits")), str(w.get("type", "int"))) for w in weights if isinstance(w, dict)
        }
        possible = {("4", "int"), ("8", "int")} if layout == "compressed" else {("8", "int"), ("8", "float")}
        if not sizes or not sizes <= possible:
            shown = ", ".join(f"{kind} of {bits} bits" for bits, kind in sorted(sizes)) or "no weights"
            raise self._error(
                f"has {shown[:80]}, which is unsupported",
                "one of " + " or ".join(f"{kind} of {bits} bits" for bits, kind in sorted(possible)),
            )
        blocks = [block for w in weights if isinstance(w, dict) and (block := w.get("block_structure"))]
        return Packing(
            "compressed-tensors",
            layout,
            mixed=len(groups) > 1,
            block=self._block(blocks[0] if blocks else None),
        )

    def _sizes(self, widths: tuple[int, ...]) -> tuple[int, int]:
        """Bits and group size."""
        values = self._values
        bits = values.get("bits", values.get("w_bit", values.get("wbits")))
        group = values.get("group_size", values.get("q_group_size"))
        known = type(bits) is int and type(group) is int
        if not (known and bits in widths and (group == -1 or 8 <= group <= 1 << 20)):
            raise self._error(
                f"with bits = {str(bits)[:20]} and group_size = {str(group)[:20]} is unsupported for {self._title}",
                f"one of {', '.join(map(str, widths))} bits and groups of 8 and more, or -1",
            )
        return int(bits or 0), int(group or 0)

    def _block(self, block: object) -> tuple[int, int] | None:
        """A block of rows and columns; None: none is stated."""
        if isinstance(block, str):
            block = [int(side[:9]) if side.isdecimal() else 0 for side in block.split("x")]
        if block is None:
            return None
        if not (isinstance(block, list) and len(block) == 2 and all(type(s) is int and s > 0 for s in block)):
            raise self._error(f"has blocks of {str(block)[:40]}", "one with two sizes, such as [128, 128]")
        return block[0], block[1]

    def _error(self, what: str, instead: str) -> ConfigError:
        return ConfigError(f"{self._source} {what}: use {instead}, or the checkpoint that is not quantised")


def _shown(value: object) -> str:
    return repr(value[:40] if isinstance(value, str) else value)[:60]
