"""The compiler's timing of a toy net, as it was recorded: one token after 64, one layer, 4 bits."""

from pathlib import Path

import pytest

from bmqwen.compiler.timing import Profile, Timeline, read_profile, read_timeline
from bmqwen.errors import CompileError

RECORDED = Path(__file__).parent / "recorded/compiler_profile_0.txt"


@pytest.fixture
def timeline() -> Timeline:
    return read_timeline(RECORDED)


def test_totals_are_those_that_the_compiler_states() -> None:
    profile = read_profile(RECORDED)
    assert profile.cycles == 43_212
    assert (profile.bytes_read, profile.bytes_written, profile.bytes_copied) == (163_982, 6_532, 384)


def test_every_cycle_and_every_byte_belongs_to_one_part() -> None:
    profile = read_profile(RECORDED)
    assert sum(profile.part_cycles.values()) == profile.cycles
    assert sum(profile.part_bytes.values()) == profile.bytes_moved - profile.bytes_copied
    # Four bits of each weight, with a scale (2 bytes) and a zero point (1) for each group of 32.
    weights = 4 * 128 * 128 + 3 * 128 * 256
    biases = 3 * 128 * 2
    assert weights / 2 + weights / 32 * 2 <= profile.part_bytes["weights"] - biases
    assert profile.part_bytes["weights"] <= 1.1 * (weights / 2 + weights / 32 * 3)
    head = 320 * 128
    assert head / 2 <= profile.part_bytes["lm_head"] <= 1.2 * (head / 2 + head / 32 * 3) + 4 * 320


def test_overlaps_counted_cycle_by_cycle(timeline: Timeline) -> None:
    bus, compute = bytearray(timeline.cycles), bytearray(timeline.cycles)
    for command in timeline.commands:
        lane = bus if command.bus else compute
        # Commands of a kind never overlap.
        assert not any(lane[command.start : command.end])
        lane[command.start : command.end] = b"\1" * (command.end - command.start)
    assert timeline.bus_busy == sum(bus)
    assert sum(timeline.cycles_by_part().values()) == timeline.cycles
    assert read_profile(RECORDED).bus_idle == timeline.cycles - sum(bus)


def test_without_notes_of_operations_there_are_totals(tmp_path: Path) -> None:
    (tmp_path / RECORDED.name).write_bytes(RECORDED.read_bytes())
    profile = read_profile(tmp_path / RECORDED.name)
    assert profile.cycles == read_profile(RECORDED).cycles
    assert profile.part_cycles["other"] == profile.cycles


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / RECORDED.name
    path.write_text(RECORDED.read_text()[:2000])
    with pytest.raises(CompileError, match="did not finish it"):
        read_profile(path)
    with pytest.raises(CompileError, match="left no timing"):
        read_profile(tmp_path / "nothing.txt")


def test_more_layers_lie_on_a_line() -> None:
    one = Profile(10, 20, 3, 1, 2, {"weights": 6, "lm_head": 4}, {"weights": 15, "lm_head": 9})
    two = Profile(16, 32, 5, 2, 3, {"weights": 12, "lm_head": 4}, {"weights": 30, "lm_head": 9})
    assert one.extended(two, 1) == one
    assert one.extended(two, 2) == two
    assert one.extended(two, 24) == Profile(
        148, 296, 49, 24, 25, {"weights": 144, "lm_head": 4}, {"weights": 360, "lm_head": 9}
    )
