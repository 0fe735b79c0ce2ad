"""Files of the kind .bmodel without a compiler: a head and a description, as the format has them, and no data."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import flatbuffers

# bm_data_type_t.
F32, F16, INT32, BF16 = 0, 1, 6, 8


@dataclass(frozen=True)
class FakeTensor:
    """An input or output."""

    name: str
    kind: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class FakeNet:
    """A net whose stages are alike, but for their intermediate results where those are listed."""

    name: str
    inputs: Sequence[FakeTensor]
    outputs: Sequence[FakeTensor]
    address_mode: int = 1
    neuron_bytes: int | Sequence[int] = 1000
    io_bytes: int = 200
    weights: tuple[str, int] = ("", 0)
    stages: int = 1


@dataclass
class FakeBmodel:
    """What a file is to say."""

    nets: Sequence[FakeNet]
    chip: str = "BM1684X"
    chips: int = 1
    data: int = field(default=64)

    def write(self, path: Path) -> Path:
        """Make the file."""
        builder = flatbuffers.Builder(1024)
        nets = _vector(builder, [_net(builder, net) for net in self.nets])
        texts = [builder.CreateString(text) for text in ("", "2.2", "", self.chip)]
        builder.StartObject(9)
        for slot, text in enumerate(texts):
            builder.PrependUOffsetTRelativeSlot(slot, text, 0)
        builder.PrependUOffsetTRelativeSlot(4, nets, 0)
        builder.PrependUint32Slot(7, self.chips, 0)
        builder.Finish(builder.EndObject())
        description = bytes(builder.Output())
        head = struct.pack("<4I48x", 0xFF55AAEE, 64, len(description), self.data)
        path.write_bytes(head + description + bytes(self.data))
        return path


def _vector(builder: flatbuffers.Builder, places: Sequence[int]) -> int:
    builder.StartVector(4, len(places), 4)
    for place in reversed(places):
        builder.PrependUOffsetTRelative(place)
    return int(builder.EndVector())


def _numbers(builder: flatbuffers.Builder, values: Sequence[int]) -> int:
    builder.StartVector(8, len(values), 8)
    for value in reversed(values):
        builder.PrependUint64(value)
    return int(builder.EndVector())


def _tensor(builder: flatbuffers.Builder, tensor: FakeTensor) -> int:
    dims = _numbers(builder, tensor.shape)
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, dims, 0)
    shapes = _vector(builder, [builder.EndObject()])
    name = builder.CreateString(tensor.name)
    builder.StartObject(13)
    builder.PrependUOffsetTRelativeSlot(0, name, 0)
    builder.PrependUint32Slot(1, tensor.kind, 0)
    builder.PrependUOffsetTRelativeSlot(5, shapes, 0)
    return int(builder.EndObject())


def _weights(builder: flatbuffers.Builder, code: str, size: int) -> int:
    hashed = builder.CreateByteVector(bytes.fromhex(code))
    builder.StartObject(6)
    builder.PrependUOffsetTRelativeSlot(1, hashed, 0)
    builder.Prep(8, 16)
    builder.PrependUint64(size)
    builder.PrependUint64(0)
    builder.PrependStructSlot(2, builder.Offset(), 0)
    return int(builder.EndObject())


def _net(builder: flatbuffers.Builder, net: FakeNet) -> int:
    inputs = _vector(builder, [_tensor(builder, tensor) for tensor in net.inputs])
    outputs = _vector(builder, [_tensor(builder, tensor) for tensor in net.outputs])
    weights = _weights(builder, *net.weights)
    needs = [net.neuron_bytes] * net.stages if isinstance(net.neuron_bytes, int) else net.neuron_bytes
    made = []
    for neuron_bytes in needs:
        builder.StartObject(20)
        builder.PrependUOffsetTRelativeSlot(0, inputs, 0)
        builder.PrependUOffsetTRelativeSlot(1, outputs, 0)
        builder.PrependUint64Slot(3, neuron_bytes, 0)
        builder.PrependUOffsetTRelativeSlot(4, weights, 0)
        builder.PrependUint64Slot(18, net.io_bytes, 0)
        made.append(builder.EndObject())
    stages = _vector(builder, made)
    name = builder.CreateString(net.name)
    builder.StartObject(6)
    builder.PrependUOffsetTRelativeSlot(0, name, 0)
    builder.PrependUOffsetTRelativeSlot(3, stages, 0)
    builder.PrependInt32Slot(5, net.address_mode, 0)
    return int(builder.EndObject())


def published_nets(layers: int = 2, *, vocab: int | None = 320, half: int = F16) -> list[FakeNet]:
    """The publisher's layout: hidden 64, two key/value heads of 16, 40 tokens; no `vocab`: the head gives a token."""
    states = FakeTensor("input_states", half, (1, 40, 64))
    rows = [FakeTensor(name, half, (1, 40, 2, 16)) for name in ("past_k", "past_v")]
    one = FakeTensor("input_states", half, (1, 1, 64))
    new = [FakeTensor(name, half, (1, 1, 2, 16)) for name in ("present_k", "present_v")]
    small = [FakeTensor("position_ids", INT32, (1, 40)), FakeTensor("attention_mask", half, (1, 1, 40, 40))]
    mask = [FakeTensor("position_ids", INT32, (1, 1)), FakeTensor("attention_mask", half, (1, 1, 1, 41))]
    head = FakeTensor("logits", F32, (1, vocab)) if vocab else FakeTensor("token", INT32, (1, 1))
    nets = [
        FakeNet("embedding", [FakeTensor("input_ids", INT32, (1, 40))], [states]),
        FakeNet("embedding_cache", [FakeTensor("input_ids", INT32, (1, 1))], [one]),
        FakeNet("lm_head", [FakeTensor("hidden", half, (1, 64))], [head]),
    ]
    for layer in range(layers):
        shared = (f"{layer:02x}" * 32, 5000)
        nets.append(FakeNet(f"block_{layer}", [states, *small], [states, *rows], weights=shared))
        nets.append(FakeNet(f"block_cache_{layer}", [one, *mask, *rows], [one, *new], weights=shared))
    return nets
