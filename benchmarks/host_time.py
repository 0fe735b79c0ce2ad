"""What this program's own Python costs a prompt and a token of a compiled model: everything runs but the device.

A library that does nothing stands in for libbmlib and libbmrt, with the nets, sizes and tokenizer of a real model. The
figures behind `bmqwen.estimate.forecast` are those of this script, times a factor for the box's cores.
"""

import argparse
import ctypes
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np

from bmqwen.artifact.bundle import EMBEDDING_FILE, Bundle, FileEntry
from bmqwen.artifact.steps import StepNets, StepShape, step_shapes
from bmqwen.generate.params import SamplingParams
from bmqwen.generate.session import Session
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.hub.known_config import published_config
from bmqwen.model.config import ModelConfig
from bmqwen.quant.precision import Precision
from bmqwen.resolve import resolve_bundle
from bmqwen.runtime.base import Feed
from bmqwen.runtime.bmodel.backend import Network, Port, Stage
from bmqwen.runtime.bmodel.step_runtime import StepRuntime
from bmqwen.runtime.bmrt.backend import BmrtBackend
from bmqwen.runtime.bmrt.device import Device, DeviceMemory
from bmqwen.runtime.bmrt.libraries import DeviceMem, Libraries
from bmqwen.util.progress import Silent
from bmqwen.util.text import counted
from machine import Machine

HALF, INT = np.dtype(np.float16), np.dtype(np.int32)
PROMPTS = (20, 400, 1984, 4000)


class SilentLibrary:
    """Every function succeeds at once; what is read is 0."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: 0

    def bm_dev_getcount(self, count: Any) -> int:
        count._obj.value = 1
        return 0

    def bm_get_chipid(self, _: Any, number: Any) -> int:
        number._obj.value = 0x1686
        return 0

    def bm_malloc_device_byte(self, _: Any, mem: Any, size: int) -> int:
        mem._obj.size = size
        return 0

    def bm_memcpy_d2s_partial_offset(self, _: Any, data: Any, mem: DeviceMem, size: int, offset: int) -> int:
        del mem, offset
        ctypes.memset(data, 0, size)
        return 0


class SilentModel(BmrtBackend):
    """A loaded bmodel whose nets return at once."""

    def __init__(self, device: Device, config: ModelConfig, nets: StepNets) -> None:
        self.device = device
        stages = [self._stage(i, shape, config) for i, shape in enumerate(nets.cycles)]
        self.networks = {nets.name: Network(nets.name, False, 1, tuple(stages))}
        self.path = Path("model.bmodel")

    def start(self, *_: Any) -> None:
        """Return."""

    def _stage(self, index: int, shape: StepShape, config: ModelConfig) -> Stage:
        tokens, history = shape.tokens, shape.history
        rows = (config.num_key_value_heads, config.head_dim)
        inputs: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            "input_states": ((1, tokens, config.hidden_size), HALF),
            **{
                name: (sizes, HALF if name == "attention_mask" else INT)
                for name, sizes in shape.inputs.items()
            },
        }
        layers = range(config.num_hidden_layers)
        inputs |= {f"history_{part}.{i}": ((1, history or 1, *rows), HALF) for i in layers for part in "kv"}
        outputs: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            "token_id": ((shape.rows,), INT),
            "logits": ((shape.rows, config.vocab_size), np.dtype(np.float32)),
        }
        outputs |= {f"{part}_cache.{i}": ((1, tokens, *rows), HALF) for i in layers for part in "kv"}
        return Stage("step", index, self._ports(inputs), self._ports(outputs))

    def _ports(self, ports: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> tuple[Port, ...]:
        made = []
        for name, (shape, dtype) in ports.items():
            memory = DeviceMemory(self.device, DeviceMem(size=int(np.prod(shape)) * dtype.itemsize))
            made.append(Port(name, shape, dtype, False, memory))
        return tuple(made)


def costs(shape: StepShape) -> int:
    """A net's time in ns, about that of a 1.8B model in 4 bits."""
    per_token = 240_000 if shape.tokens > 32 else 110_000
    return 17_200_000 + shape.tokens * per_token + shape.history * (2600 + 28 * shape.tokens)


def silent_runtime(context: int, folder: Path, sequences: int = 1) -> StepRuntime:
    """A runtime of a 1.8B model's sizes, without a device."""
    config = published_config("qwen1.5-1.8b-chat")
    assert config is not None
    shapes = step_shapes(context, sequences)
    nets = StepNets(context, {shape: costs(shape) for shape in shapes}, sequences=sequences)
    with (folder / EMBEDDING_FILE).open("wb") as file:
        file.truncate(2 * config.vocab_size * config.hidden_size)  # sparse
    details = {**nets.to_dict(), "device_bytes": 1}
    files = {name: FileEntry(0, "") for name in (EMBEDDING_FILE, "model.bmodel")}
    bundle = Bundle(folder, "bmodel", "silent", config, {}, details, files=files)
    fake = cast(ctypes.CDLL, SilentLibrary())

    def open_backend(*_: Any) -> BmrtBackend:
        device = Device(Libraries(fake, fake, simulated=False))
        return SilentModel(device, config, nets)

    # There is no bmodel to look at.
    with patch("bmqwen.runtime.bmodel.step_runtime.check_intermediates"):
        return StepRuntime(bundle, open_backend)


def session(context: int, folder: Path) -> Session:
    """A session on it."""
    demo = resolve_bundle(None, Precision(), offline=True, progress=Silent())
    return Session(silent_runtime(context, folder), Tokenizer.from_folder(demo.tokenizer_folder))


def step_ms(context: int, folder: Path, sequences: int, new_tokens: int) -> float:
    """Milliseconds of the runtime alone for a step that gives each of several sequences a token."""
    runtime = silent_runtime(context, folder, sequences)
    runtime.step([Feed(sequence, range(20)) for sequence in range(sequences)])
    feeds = [Feed(sequence, [5]) for sequence in range(sequences)]
    started = time.process_time()
    for _ in range(new_tokens):
        for output in runtime.step(feeds):
            output.greedy()
    return 1e3 * (time.process_time() - started) / new_tokens


def first_and_token(of: Session, prompt: int, new_tokens: int) -> tuple[float, float]:
    """Milliseconds until the first token, and of each after it."""
    of.reset()
    ids = [1000 + i % 5000 for i in range(prompt)]
    generation = of.generate(ids, SamplingParams(max_tokens=new_tokens))
    # Time of the processor: what else the machine does is not counted. Each token is a piece of text.
    started = time.process_time()
    next(generation)
    first = time.process_time()
    for _ in generation:
        pass
    return 1e3 * (first - started), 1e3 * (time.process_time() - first) / (new_tokens - 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--new-tokens", type=int, default=90)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        of = session(options.context, Path(folder))
        found = []
        for prompt in (count for count in PROMPTS if count + options.new_tokens <= options.context):
            first_and_token(of, prompt, options.new_tokens)
            runs = [first_and_token(of, prompt, options.new_tokens) for _ in range(options.repeats)]
            first, token = (statistics.median(times) for times in zip(*runs, strict=True))
            started = time.process_time()
            of.runtime._nets.plan(0, prompt)  # type: ignore[attr-defined]
            planned = 1e3 * (time.process_time() - started)
            found.append({"prompt_tokens": prompt, "first_ms": first, "token_ms": token, "plan_ms": planned})
        steps = {
            count: statistics.median(
                step_ms(options.context, Path(folder), count, options.new_tokens)
                for _ in range(options.repeats)
            )
            for count in options.sequences
        }
    if options.json:
        document = {"machine": Machine.here().to_dict(), "times": found, "steps_ms": steps}
        print(json.dumps(document, indent=1))
        return
    print(f"{'prompt':>7} {'first token':>12} {'a token':>9} {'planning':>9}   (ms of Python)")
    for row in found:
        print("{prompt_tokens:>7} {first_ms:>12.3f} {token_ms:>9.3f} {plan_ms:>9.3f}".format(**row))
    for count, spent in steps.items():
        print(f"a step of the runtime for {counted(count, 'sequence')}: {spent:.3f} ms")


if __name__ == "__main__":
    main()
