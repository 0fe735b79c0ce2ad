"""What a checkpoint or a bundle is, in facts for people and scripts."""

from dataclasses import asdict
from typing import Any

from bmqwen.artifact.bmodel import BmodelDescription, NetDescription
from bmqwen.artifact.bundle import Bundle
from bmqwen.artifact.states import state_bytes
from bmqwen.model.config import ModelConfig
from bmqwen.weights.checkpoint import Checkpoint

# Whose memory a net's inputs and outputs are in.
ADDRESS_MODES = {0: "basic", 1: "io_alone", 2: "io_tag", 3: "io_tag_fuse", 4: "io_reloc"}


def describe_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return facts on a checkpoint; sizes in bytes."""
    return {
        "kind": "checkpoint",
        "name": checkpoint.name,
        "precision": checkpoint.precision,
        "parameters": checkpoint.parameters,
        "bytes": checkpoint.bytes_on_disk,
        **_architecture(checkpoint.config),
    }


def describe_bundle(bundle: Bundle) -> dict[str, Any]:
    """Return facts on a bundle; sizes in bytes."""
    return {
        "kind": bundle.kind,
        "name": bundle.model.removesuffix(".gguf"),
        "precision": bundle.precision,
        "bytes": bundle.total_bytes,
        "files": {name: entry.bytes for name, entry in bundle.files.items()},
        "details": bundle.details,
        "made_by": f"bmqwen {bundle.made_by}",
        **_architecture(bundle.config),
    }


def describe_bmodel(bmodel: BmodelDescription) -> dict[str, Any]:
    """Return facts on any bmodel: its nets, their stages and tensors, and device memory; sizes in bytes."""
    return {
        "kind": "bmodel file",
        "name": bmodel.path.name,
        "chip": bmodel.chip,
        "chips": bmodel.chips,
        "compiler": bmodel.compiler,
        "bytes": bmodel.bytes,
        "device_bytes": bmodel.device_bytes,
        "nets": [_net(net) for net in bmodel.nets.values()],
    }


def _net(net: NetDescription) -> dict[str, Any]:
    stages = []
    for stage in net.stages:
        facts = asdict(stage)
        stages.append(facts | {"weight_bytes": sum(facts.pop("weights").values())})
    mode = ADDRESS_MODES.get(net.address_mode, str(net.address_mode))
    return {"name": net.name, "dynamic": net.dynamic, "address_mode": mode, "stages": stages}


def _architecture(config: ModelConfig) -> dict[str, Any]:
    kv_rows = 2 * len(config.kv_layers) * config.num_key_value_heads * config.head_dim
    return {
        "architecture": config.class_name,
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "attention_heads": config.num_attention_heads,
        "key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocabulary": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "tied_embeddings": config.tie_word_embeddings,
        "cpu_kv_cache_bytes_per_token": 4 * kv_rows,
        "chip_kv_cache_bytes_per_token": 2 * kv_rows,
        **({"chip_state_bytes": state_bytes(config)} if config.state_layers else {}),
    }
