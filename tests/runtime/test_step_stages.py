"""Inputs, addresses and counts of launches, on a stand-in for the device that remembers what was asked of it."""

import ctypes
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.errors import BundleError, DeviceError
from bmqwen.runtime.bmodel.backend import Network, Port, Stage
from bmqwen.runtime.bmodel.step_stages import Segment, StepStages
from bmqwen.runtime.bmrt.backend import BmrtBackend
from bmqwen.runtime.bmrt.device import Device, DeviceMemory
from bmqwen.runtime.bmrt.libraries import DeviceMem, Libraries
from support.checkpoints import tiny_config

CONTEXT, WIDE, LAST = 32, StepShape(8, 32, 8), StepShape(1, 32)
CONFIG = tiny_config(layers=1, hidden_size=16, heads=2, kv_heads=1, head_dim=8, vocab_size=50)
ROW = 2 * CONFIG.kv_size


class MemoryLibrary:
    """libbmlib on an array: addresses are places in it."""

    def __init__(self, chip: int = 0x1686) -> None:
        self.chip = chip
        self.memory = np.full(1 << 20, 0xFF, np.uint8)
        self.end = 512 << 10
        self.calls: list[str] = []

    def bm_dev_getcount(self, count: Any) -> int:
        count._obj.value = 1
        return 0

    def bm_dev_request(self, handle: Any, _: int) -> int:
        handle._obj.value = 1
        return 0

    def bm_dev_free(self, _: Any) -> None:
        return None

    def bm_get_chipid(self, _: Any, number: Any) -> int:
        number._obj.value = self.chip
        return 0

    def bm_get_gmem_total_heap_num(self, *_: Any) -> int:
        return 1

    def bm_malloc_device_byte(self, _: Any, mem: Any, size: int) -> int:
        mem._obj.address, mem._obj.size = self.end, size
        self.end += size
        return 0

    def bm_free_device(self, *_: Any) -> None:
        return None

    def bm_thread_sync(self, _: Any) -> int:
        self.calls.append("wait")
        return 0

    def bm_memcpy_s2d_partial_offset(self, _: Any, mem: DeviceMem, data: Any, size: int, offset: int) -> int:
        self.calls.append("write")
        place = int(mem.address) + offset
        self.memory[place : place + size] = np.ctypeslib.as_array(
            ctypes.cast(data, ctypes.POINTER(ctypes.c_uint8)), (size,)
        )
        return 0

    def bm_memcpy_d2s_partial_offset(self, _: Any, data: Any, mem: DeviceMem, size: int, offset: int) -> int:
        self.calls.append("read")
        place = int(mem.address) + offset
        ctypes.memmove(data, self.memory[place : place + size].ctypes.data, size)
        return 0


class Launches(BmrtBackend):
    """A loaded bmodel that only notes what it was given."""

    def __init__(self, device: Device, stages: list[Stage], calls: list[str]) -> None:
        self.device = device
        self.networks = {"step": Network("step", False, 1, tuple(stages))}
        self.path = Path("model.bmodel")
        self.given: dict[str, int] = {}
        self.taken: dict[str, int] = {}
        self._calls = calls

    def start(self, stage: Stage, given: Any, taken: Any) -> None:
        self._calls.append("launch")
        for tensors, ports, noted in ((given, stage.inputs, self.given), (taken, stage.outputs, self.taken)):
            for tensor, port in zip(tensors, ports, strict=True):
                noted[port.name] = int(tensor.device_mem.address)


class Bench:
    """Stages on a stand-in device. `place` gives each stage's inputs and outputs their addresses."""

    def __init__(
        self, *, shared: bool = True, gap: int = 0, chip: int = 0x1686, half: str = "f16", stated: str = ""
    ) -> None:
        self.library = MemoryLibrary(chip)
        fake = cast(ctypes.CDLL, self.library)
        self.device = Device(Libraries(fake, fake, simulated=False))
        stages = [
            self._stage(number, shape, 0 if shared else number * (128 << 10), gap, half == "bf16")
            for number, shape in enumerate((WIDE, LAST))
        ]
        self.model = Launches(self.device, stages, self.library.calls)
        nets = StepNets(CONTEXT, {WIDE: 100, LAST: 50}, half=stated or half)
        self.stages = StepStages(self.model, nets, CONFIG)
        self.library.calls.clear()

    def _stage(self, number: int, shape: StepShape, base: int, gap: int, bfloat16: bool) -> Stage:
        tokens, history = shape.tokens, shape.history
        half = np.dtype(np.uint16 if bfloat16 else np.float16)
        cache = (1, CONFIG.head_dim)
        inputs: list[tuple[str, tuple[int, ...], np.dtype[Any]]] = [
            ("input_states", (1, tokens, CONFIG.hidden_size), half),
            ("position_ids", (1, tokens), np.dtype(np.int32)),
            ("attention_mask", (1, 1, tokens, history + tokens), half),
            ("last_row", (shape.rows,), np.dtype(np.int32)),
            ("history_k.0", (1, history, *cache), half),
            ("history_v.0", (1, history, *cache), half),
        ]
        outputs: list[tuple[str, tuple[int, ...], np.dtype[Any]]] = [
            ("token_id", (shape.rows, 1), np.dtype(np.int32)),
            ("logitstoken_id_f32", (shape.rows, CONFIG.vocab_size), np.dtype(np.float32)),
            ("k_cache.0", (1, tokens, *cache), half),
            ("v_cache.0", (1, tokens, *cache), half),
        ]
        address = 4096 + base
        ports: list[Port] = []
        for name, dims, dtype in (*inputs, *outputs):
            size = int(np.prod(dims)) * dtype.itemsize
            memory = DeviceMemory(self.device, DeviceMem(address=address, size=size))
            ports.append(Port(name, dims, dtype, bfloat16 and dtype == half, memory))
            # The same places at every length: the longest decides.
            address += 2048 + (gap if name == "input_states" else 0)
        return Stage("step", number, tuple(ports[:6]), tuple(ports[6:]))

    def bytes_at(self, address: int, size: int) -> Any:
        """Device memory."""
        return self.library.memory[address : address + size]

    def mask(self, shape: StepShape) -> Any:
        """The mask as the device has it: float [tokens, history + tokens]."""
        width = shape.history + shape.tokens
        data = self.bytes_at(self.model.given["attention_mask"], 2 * shape.tokens * width)
        return data.view(np.float16).astype(np.float32).reshape(shape.tokens, width)


def states(count: int) -> Any:
    """Bits of embeddings."""
    return np.arange(count * CONFIG.hidden_size, dtype=np.uint16).reshape(count, -1) + 1


def test_a_token_is_one_write_one_launch_and_four_bytes_back() -> None:
    bench = Bench()
    bench.stages.launch(LAST, 5, states(1), [Segment.alone(5, 1)])
    bench.stages.token_ids(LAST, 1)
    bench.stages.launch(LAST, 6, states(1), [Segment.alone(6, 1)])
    bench.stages.token_ids(LAST, 1)
    assert bench.library.calls == ["write", "launch", "wait", "read"] * 2
    counters = bench.stages.counters
    assert (counters.launches, counters.writes, counters.reads, counters.bytes_out) == (2, 2, 2, 8)
    assert counters.device_copies == 0


def test_inputs_as_the_device_sees_them() -> None:
    bench = Bench()
    bench.stages.launch(WIDE, 3, states(5), [Segment.alone(3, 5)])
    given = bench.model.given
    rows = bench.bytes_at(given["input_states"], 2 * 8 * 16).view(np.uint16).reshape(8, 16)
    assert (rows[:5] == states(5)).all()
    assert not rows[5:].any()
    assert bench.bytes_at(given["position_ids"], 32).view(np.int32).tolist() == [3, 4, 5, 6, 7, 0, 0, 0]
    assert bench.bytes_at(given["last_row"], 32).view(np.int32).tolist() == [4, *[0] * 7]
    mask = bench.mask(WIDE)
    assert (mask[:, :3] == 0).all()
    assert (mask[:, 3:32] == -10000).all()
    assert (mask[:, 32:] == np.where(np.tri(8), 0, -10000)).all()


def test_mask_follows_the_position_back_and_forth() -> None:
    bench = Bench()
    for position in (0, 7, 31, 4, 5, 0):
        bench.stages.launch(LAST, position, states(1), [Segment.alone(position, 1)])
        expected = np.where(np.arange(33) < position, 0, -10000)
        expected[32] = 0
        assert (bench.mask(LAST)[0] == expected).all()


def test_each_token_sees_its_own_sequence() -> None:
    bench = Bench()
    first, second = np.array([0, 2, 4]), np.array([1, 3])
    for gained in range(3):
        # A token of one sequence, three of another: all their results are wanted, or the last one's.
        given = [
            Segment((0, 0), 3 + gained, 1, np.concatenate([first, 5 + np.arange(gained)])),
            Segment((1, 0), 2, 3, second, 3),
        ]
        bench.stages.launch(WIDE, 20, states(4), given)
        expected = np.full((4, 40), -10000.0)
        expected[0, [*first, *range(5, 5 + gained), 32]] = 0
        for token in range(3):
            expected[1 + token, [*second, *range(33, 34 + token)]] = 0
        assert (bench.mask(WIDE)[:4] == expected).all()
        names = bench.model.given
        positions = bench.bytes_at(names["position_ids"], 32).view(np.int32)
        assert positions.tolist() == [3 + gained, 2, 3, 4, 0, 0, 0, 0]
        assert bench.bytes_at(names["last_row"], 16).view(np.int32).tolist() == [0, 1, 2, 3]
    # Another row was taken away: what was open is closed.
    bench.stages.launch(
        WIDE, 20, states(2), [Segment((0, 1), 1, 1, first[:1]), Segment((1, 0), 2, 1, second)]
    )
    mask = bench.mask(WIDE)
    assert np.flatnonzero(mask[0] == 0).tolist() == [0, 32]
    assert np.flatnonzero(mask[1] == 0).tolist() == [1, 3, 33]
    # One alone again.
    bench.stages.launch(WIDE, 20, states(2), [Segment((0, 1), 1, 2, first[:1])])
    mask = bench.mask(WIDE)
    assert np.flatnonzero(mask[1] == 0).tolist() == [0, 32, 33]


def test_mask_of_a_bfloat16_net_is_written_in_its_own_type() -> None:
    bench = Bench(half="bf16")
    bench.stages.launch(LAST, 2, states(1), [Segment.alone(2, 1)])
    bits = bench.bytes_at(bench.model.given["attention_mask"], 66).view(np.uint16)
    # 0xC61C is -9984, the number nearest to -10000 that bfloat16 has.
    assert bits[:2].tolist() == [0, 0]
    assert set(bits[2:32].tolist()) == {0xC61C}


def test_new_rows_are_aimed_at_their_place_and_nothing_is_copied() -> None:
    bench = Bench()
    own = bench.stages._launches[WIDE].stage
    base = {part: cast(DeviceMemory, own.input(f"history_{part}.0").memory).address for part in "kv"}
    for position in (0, 9, 3):
        bench.stages.launch(WIDE, position, states(8), [Segment.alone(position, 8)])
        for part in "kv":
            assert bench.model.given[f"history_{part}.0"] == base[part]
            assert bench.model.taken[f"{part}_cache.0"] == base[part] + position * ROW


def test_rows_that_do_not_follow_the_history_are_copied_by_the_device() -> None:
    bench = Bench()
    bench.stages.launch(LAST, 5, states(1), [Segment.alone(5, 1)])
    counters = bench.stages.counters
    assert (counters.row_copies, counters.row_bytes) == (2, 2 * ROW)
    bench.stages.launch(LAST, CONTEXT - 1, states(1), [Segment.alone(CONTEXT - 1, 1)])
    assert (counters.row_copies, counters.row_bytes) == (4, 4 * ROW)


def test_stages_with_memory_of_their_own_share_one_cache() -> None:
    # Older runtimes give each stage its own inputs and outputs: the device then copies the cache for the others.
    bench = Bench(shared=False)
    cache = bench.stages._launches[WIDE].stage.input("history_k.0").memory
    canonical = cast(DeviceMemory, cache).address
    bench.stages.launch(WIDE, 0, states(8), [Segment.alone(0, 8)])
    assert bench.stages.counters.device_copies == 0
    bench.stages.launch(LAST, 8, states(1), [Segment.alone(8, 1)])
    assert bench.model.given["history_k.0"] == canonical
    assert bench.model.taken["k_cache.0"] == canonical + 8 * ROW
    assert bench.stages.counters.device_copies == 2
    assert bench.stages.counters.device_bytes == 2 * CONTEXT * ROW


def test_inputs_that_lie_far_apart_are_still_one_write() -> None:
    bench = Bench(gap=100 << 10)
    bench.stages.launch(LAST, 1, states(1), [Segment.alone(1, 1)])
    assert bench.library.calls == ["write", "launch"]
    assert bench.stages.counters.device_copies == 4
    assert bench.stages.counters.bytes_in < 1024
    assert (bench.bytes_at(bench.model.given["input_states"], 32).view(np.uint16) == states(1)[0]).all()


def test_cache_is_zeroed_and_can_be_written_and_read() -> None:
    bench = Bench()
    assert not bench.stages.read_rows(0, CONTEXT).any()
    rows = np.random.default_rng(0).integers(0, 1 << 16, (2, 3, 1, 8), np.uint16)
    bench.stages.write_rows(4, rows)
    assert (bench.stages.read_rows(4, 3) == rows).all()
    assert not bench.stages.read_rows(0, 4).any()


def test_another_chip_or_another_net_is_refused() -> None:
    with pytest.raises(DeviceError, match="compiled for BM1684X, but device 0 is a BM1688"):
        Bench(chip=0x1688)
    bench = Bench()
    with pytest.raises(
        BundleError, match="no stage for 4 tokens with up to 32 cached: it does not fit its manifest"
    ):
        StepStages(bench.model, StepNets(CONTEXT, {StepShape(4, 32): 1}), CONFIG)
    with pytest.raises(BundleError, match="has no net 'other'"):
        StepStages(bench.model, StepNets(CONTEXT, {LAST: 1}, name="other"), CONFIG)


@pytest.mark.parametrize(("half", "stated"), [("f16", "bf16"), ("bf16", "f16")])
def test_a_manifest_that_names_another_half_is_refused(half: str, stated: str) -> None:
    with pytest.raises(
        BundleError, match=f"computes in {half}, but its manifest says {stated}: make the bundle"
    ):
        Bench(half=half, stated=stated)
