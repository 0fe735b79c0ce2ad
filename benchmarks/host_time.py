"""What this program's own Python costs a prompt and a token of a compiled model: everything runs but the device.

A library whose functions do nothing (made with `cc`) stands in for libbmlib and libbmrt, with the nets, sizes and
tokenizer of a real model. The figures behind `bmqwen.estimate.forecast` are those of this script, times a factor for
the box's cores.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from bmqwen.artifact.bundle import EMBEDDING_FILE, Bundle, FileEntry
from bmqwen.artifact.steps import StepNets, StepShape, step_shapes
from bmqwen.generate.batcher import Batcher
from bmqwen.generate.params import SamplingParams
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.hub.known_config import published_config
from bmqwen.model.config import ModelConfig
from bmqwen.quant.precision import Precision
from bmqwen.resolve import resolve_bundle
from bmqwen.runtime.bmodel.backend import Network, Port, Stage
from bmqwen.runtime.bmodel.step_runtime import StepRuntime
from bmqwen.runtime.bmrt.backend import BmrtBackend
from bmqwen.runtime.bmrt.device import Device, DeviceMemory
from bmqwen.runtime.bmrt.libraries import BMLIB_CALLS, BMRT_CALLS, DeviceMem, Libraries, load_library
from bmqwen.util.progress import Silent
from bmqwen.util.text import counted
from machine import Machine

HALF, INT = np.dtype(np.float16), np.dtype(np.int32)
PROMPTS = (20, 400, 1984, 4000)


# bm_device_mem_t is `bmqwen.runtime.bmrt.libraries.DeviceMem`. Tokens are chosen at random among the 4,096
# most frequent ones: no text repeats itself, so that drafts are looked for, and none is found.
SOURCE = """
typedef struct { unsigned long address; unsigned reserved; int dmabuf_fd; unsigned flags, size; } mem_t;
int bm_dev_getcount(int *count) { *count = 1; return 0; }
int bm_get_chipid(void *device, unsigned *chip) { *chip = 0x1686; return 0; }
int bm_malloc_device_byte(void *device, mem_t *mem, unsigned size) { mem->size = size; return 0; }
int bm_memcpy_d2s_partial_offset(void *device, int *data, mem_t mem, unsigned size, unsigned offset)
{
  static unsigned last;
  for (unsigned i = 0; i < size / sizeof(int); i++) data[i] = (last = last * 1103515245 + 12345) >> 20;
  return 0;
}
int bmrt_launch_tensor_ex(void) { return 1; }
"""


def silent_libraries(folder: Path) -> Libraries:
    """Make and load libraries whose other functions do nothing and return 0, for success."""
    calls = BMLIB_CALLS | BMRT_CALLS
    others = [f"int {name}(void) {{ return 0; }}\n" for name in calls if f" {name}(" not in SOURCE]
    source, library = folder / "silent.c", folder / "libsilent.so"
    source.write_text(SOURCE + "".join(others))
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    loaded = load_library(library, calls)
    return Libraries(loaded, loaded, simulated=False)


class SilentModel(BmrtBackend):
    """A loaded bmodel whose nets return at once."""

    def __init__(self, device: Device, config: ModelConfig, nets: StepNets) -> None:
        self.device, self.launches = device, 0
        self._bmrt, self._loaded = device.libraries.bmrt, None
        stages = [self._stage(i, shape, config) for i, shape in enumerate(nets.cycles)]
        self.networks = {nets.name: Network(nets.name, False, 1, tuple(stages))}
        self.path = Path("model.bmodel")

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
    device = Device(silent_libraries(folder))

    def open_backend(*_: Any) -> BmrtBackend:
        return SilentModel(device, config, nets)

    # There is no bmodel to look at.
    with patch("bmqwen.runtime.bmodel.step_runtime.check_intermediates"):
        return StepRuntime(bundle, open_backend)


def batcher(context: int, folder: Path, sequences: int = 1) -> Batcher:
    """What computes on it."""
    demo = resolve_bundle(None, Precision(), offline=True, progress=Silent())
    tokenizer = Tokenizer.from_folder(demo.tokenizer_folder)
    return Batcher(silent_runtime(context, folder, sequences), tokenizer)


def first_and_step(of: Batcher, answers: int, prompt: int, new_tokens: int) -> tuple[float, float]:
    """Milliseconds of the prompt, until the first token is known, and of each step that gives the answers a token.

    All answers have the same prompt; the first time is that of the first of them.
    """
    of.reset()
    ids = [1000 + i % 5000 for i in range(prompt)]
    generations = []
    # Time of the processor: what else the machine does is not counted. Each token is a piece of text.
    started = time.process_time()
    for _ in range(answers):
        generations.append(of.add(ids, SamplingParams(max_tokens=new_tokens)))
        while not generations[-1].pieces:
            of.step()
        if len(generations) == 1:
            first = time.process_time() - started
    started, steps = time.process_time(), 0
    while not any(generation.over for generation in generations):
        of.step()
        steps += 1
        for generation in generations:
            generation.pieces.clear()
    spent = time.process_time() - started
    for generation in generations:
        of.drop(generation)
    return 1e3 * first, 1e3 * spent / steps


def median_of(of: Batcher, answers: int, prompt: int, options: argparse.Namespace) -> tuple[float, float]:
    """The medians of several times `first_and_step`, after one that is not counted."""
    runs = [first_and_step(of, answers, prompt, options.new_tokens) for _ in range(options.repeats + 1)][1:]
    first, step = (statistics.median(times) for times in zip(*runs, strict=True))
    return first, step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--new-tokens", type=int, default=90)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--answers", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        of = batcher(options.context, Path(folder))
        found = []
        for prompt in (count for count in PROMPTS if count + options.new_tokens <= options.context):
            first, token = median_of(of, 1, prompt, options)
            found.append({"prompt_tokens": prompt, "first_ms": first, "token_ms": token})
        steps = {
            count: median_of(batcher(options.context, Path(folder), count), count, PROMPTS[0], options)[1]
            for count in options.answers
        }
    if options.json:
        document = {"machine": Machine.here().to_dict(), "times": found, "steps_ms": steps}
        print(json.dumps(document, indent=1))
        return
    print(f"{'prompt':>7} {'first token':>12} {'a token':>9}   (ms of Python)")
    for row in found:
        print("{prompt_tokens:>7} {first_ms:>12.3f} {token_ms:>9.3f}".format(**row))
    for count, spent in steps.items():
        print(f"a step of {counted(count, 'answer')}: {spent:.3f} ms")


if __name__ == "__main__":
    main()
