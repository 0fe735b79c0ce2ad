"""What a model takes of a chip's memory, whether a machine has it, and how a SoC gets it."""

from itertools import pairwise
from pathlib import Path

import pytest

from bmqwen.artifact.fit import MemoryRequest, config_request, memory_findings, together
from bmqwen.artifact.footprint import fits, footprint, longest_context
from bmqwen.artifact.steps import step_shapes
from bmqwen.chip.machine import look
from bmqwen.chip.memory import (
    SYSTEM_NEEDS,
    Heap,
    largest_heaps,
    layout_commands,
    parse_summary,
    place,
    plan_layout,
    read_board,
    why_too_large,
)
from bmqwen.chip.problems import larger_than_heap, too_little_memory
from bmqwen.chip.spec import DEFAULT_CHIP, MIB, Layout
from bmqwen.doctor.examination import examine, find_request
from bmqwen.doctor.probe import Answer
from bmqwen.hub.known_config import published_config
from bmqwen.quant.precision import Format, Precision
from bmqwen.util.progress import Silent
from support.bmodel_files import FakeBmodel, FakeNet
from support.recorded import recorded

BOARD = DEFAULT_CHIP.board


def precision(form: Format) -> Precision:
    """Layers and head alike."""
    return Precision.choose(form, 64, form)


def candidate(name: str, form: Format, context: int = 512) -> MemoryRequest:
    """A published model, as it would be compiled."""
    config = published_config(name)
    assert config is not None
    return config_request(name, config, precision(form), context)


def test_the_board_is_read_from_the_device_tree(tmp_path: Path) -> None:
    assert read_board(recorded("se7", tmp_path)) == BOARD
    # What `memory_edit.sh -p` prints on this box.
    assert BOARD.most == Layout(npu=7615, vpu=3071, vpp=4096)
    assert BOARD.now == Layout(npu=3950, vpu=2047, vpp=3072)


def test_a_machine_without_a_device_tree_has_no_board(tmp_path: Path) -> None:
    assert read_board(recorded("sc7", tmp_path)) is None


def test_a_summary_of_the_kernel() -> None:
    text = "Summary:\n[1] vpp heap size:4294967296 bytes, used:144646144 bytes\nusage rate:4%, memory usage peak 1"
    assert parse_summary(text) == Heap("vpp", 4294967296, 144646144)
    assert parse_summary("") is None


def test_pieces_go_where_the_library_puts_them() -> None:
    heaps = [Heap("a", 100, 10), Heap("b", 60), Heap("c", 50)]
    assert place([90, 60, 50], heaps) == [90, 60, 50]
    assert place([80, 20, 50], heaps) == [80, 20, 50]
    # 110 bytes are free after the first, but not in one heap.
    assert place([91], heaps) is None
    assert place([80, 55, 55], heaps) is None


@pytest.mark.parametrize("needed", [500, 3950, 5000, 7500])
def test_the_npu_heap_grows_as_far_as_it_must(needed: int) -> None:
    layout = plan_layout(BOARD, [needed * MIB - (20 << 20), 20 << 20])
    assert layout is not None
    assert needed <= layout.npu <= max(BOARD.now.npu, needed + 64 + 16)
    assert BOARD.system(layout) >= SYSTEM_NEEDS
    # Nothing is taken from the others while Linux has enough.
    assert (layout.vpu, layout.vpp) == (BOARD.now.vpu, BOARD.now.vpp)


def test_pieces_beyond_the_npu_go_to_the_others_and_linux_keeps_its_own() -> None:
    pieces = [7000 * MIB, 3500 * MIB]
    layout = plan_layout(BOARD, pieces)
    assert layout is not None
    assert layout.npu == 7615
    assert layout.vpp >= 3500
    assert BOARD.system(layout) >= SYSTEM_NEEDS
    assert place(pieces, largest_heaps(BOARD)) is not None


@pytest.mark.parametrize(
    "pieces", [[7616 * MIB], [7000 * MIB, 4097 * MIB], [7600 * MIB, 4000 * MIB, 3000 * MIB]]
)
def test_what_no_division_has_room_for(pieces: list[int]) -> None:
    assert plan_layout(BOARD, pieces) is None


def test_the_commands_name_the_right_boot_file() -> None:
    assert layout_commands(Layout(7615, 2047, 3072)) == [
        "./memory_edit.sh -c -npu 7615 -vpu 2047 -vpp 3072",
        "sudo cp emmcboot.itb /boot/emmcboot.itb && sync",
        "sudo reboot",
    ]


def test_a_model_that_fits_names_the_longest_context(tmp_path: Path) -> None:
    asked = candidate("qwen1.5-1.8b-chat", "int4")
    texts = [str(f) for f in memory_findings(asked, recorded("se7_new", tmp_path))]
    assert "weights 835 MB, K/V cache 126 MB" in texts[0]
    assert texts[1].startswith("it fits on device 0; the longest context that fits is ")
    longest = int(texts[1].split("--seq-len ")[1].rstrip(")"))
    heaps = look(recorded("se7_new", tmp_path / "again")).chips[0].heaps
    assert fits(candidate("qwen1.5-1.8b-chat", "int4", longest).footprint, heaps)
    assert not fits(candidate("qwen1.5-1.8b-chat", "int4", longest + 128).footprint, heaps)


def test_a_soc_gets_the_command_that_makes_room(tmp_path: Path) -> None:
    found = list(memory_findings(candidate("qwen1.5-7b-chat", "int8"), recorded("se7_new", tmp_path)))
    assert found[1].level == "error"
    assert "in one piece, but the largest heap (npu) has 4,142 MB" in found[1].text
    assert (
        "`./memory_edit.sh -c -npu 7456 -vpu 2047 -vpp 3072 && sudo cp emmcboot.itb /boot/emmcboot.itb && sync && "
        "sudo reboot`"
    ) in found[1].fix
    assert "the boot.itb that a guide in circulation names belongs to BM1688" in found[1].fix


def test_a_model_for_no_chip(tmp_path: Path) -> None:
    f16 = candidate("qwen1.5-7b-chat", "f16")
    on_box, on_card, nowhere = (
        list(memory_findings(f16, recorded(name, tmp_path / name)))[1] for name in ("se7_new", "sc7", "bare")
    )
    assert on_box.level == on_card.level == "error"
    assert "no division of this box's memory has room for it" in on_box.fix
    assert "the largest heap (heap0) has 7,985 MB" in on_card.text
    assert nowhere.level == "warning"
    assert "it does not fit on a BM1684X with 16 GB" in nowhere.text


def test_a_runtime_that_keeps_stages_apart_takes_more(tmp_path: Path) -> None:
    asked = candidate("qwen1.5-1.8b-chat", "int4")
    new, old = (
        list(memory_findings(asked, recorded(name, tmp_path / name))) for name in ("se7_new", "se7_root")
    )
    need = asked.footprint
    # One more time the inputs, outputs and K/V rows for each length but one.
    further = (len(step_shapes(512)) - 1) * need.pieces[-1]
    assert f"needs {need.total / 1e6:,.0f} MB" in new[0].text
    assert f"needs {(need.total + further) / 1e6:,.0f} MB" in old[0].text
    assert "of the other lengths of net" in old[0].text
    longest = [int(found[1].text.split("--seq-len ")[1].rstrip(")")) for found in (new, old)]
    assert 512 < longest[1] < longest[0] / 4


def test_memory_that_others_hold(tmp_path: Path) -> None:
    asked = candidate("qwen1.5-1.8b-chat", "int4")
    found = list(memory_findings(asked, recorded("se7_busy", tmp_path)))[1]
    problem = too_little_memory("x", 1, "device 0", 1, ["video_server (process 812)"])
    assert found.level == "error"
    assert "MB of device memory, but device 0 has only 647 MB free" in found.text
    assert found.fix == problem.fix


def test_what_a_pc_is_told_of_boxes(tmp_path: Path) -> None:
    system = recorded("bare", tmp_path)
    small = list(memory_findings(candidate("qwen1.5-0.5b-chat", "int4"), system))[1]
    large = list(memory_findings(candidate("qwen1.5-7b-chat", "int8"), system))[1]
    assert small.text.startswith("it fits on an SE7 box as delivered")
    assert "on an SE7 box once its memory is divided differently" in large.text
    assert "memory_edit.sh" in large.fix


def test_inputs_and_outputs_beyond_four_gigabytes_do_not_fit() -> None:
    config = published_config("qwen1.5-7b-chat")
    assert config is not None
    endless = [Heap("heap", 1 << 40)]
    longest = longest_context(config, precision("int4"), lambda need: fits(need, endless))
    assert longest is not None
    assert footprint(config, precision("int4"), longest).pieces[-1] < 1 << 32


def test_more_of_anything_takes_more() -> None:
    config = published_config("qwen1.5-1.8b-chat")
    assert config is not None
    by_length = [footprint(config, precision("int4"), n).total for n in (128, 512, 2048, 8192)]
    by_form = [footprint(config, precision(form), 512).total for form in ("int4", "int8", "f16")]
    assert all(a < b for row in (by_length, by_form) for a, b in pairwise(row))


def test_why_pieces_do_not_go_in() -> None:
    heaps = [Heap("npu", 100 * MIB, 60 * MIB), Heap("vpp", 50 * MIB)]
    assert why_too_large("m", [40 * MIB, 50 * MIB], heaps, "device 0") is None
    assert why_too_large("m", [101 * MIB], heaps, "device 0") == larger_than_heap(
        "m", 101 * MIB, "npu", 100 * MIB
    )
    assert why_too_large("m", [45 * MIB] * 3, heaps, "device 0") == too_little_memory(
        "m", 135 * MIB, "device 0", 90 * MIB
    )
    # Enough is free, but in no heap at once.
    assert "as far as it is free" in str(why_too_large("m", [60 * MIB], heaps, "device 0"))


def test_a_bmodel_that_no_runtime_takes(tmp_path: Path) -> None:
    path = FakeBmodel([FakeNet("yolo", [], [])]).write(tmp_path / "yolo.bmodel")
    found = find_request(str(path), precision("int4"), None, offline=True, progress=Silent())
    result = examine(recorded("se7_new", tmp_path / "box"), probe=lambda _: Answer(), request=found)
    told = next(f for f in result.findings if f.level == "error")
    assert "unknown nets (yolo; without embedding)" in told.text
    assert told.fix.startswith("bundles of bmqwen compile")
    assert not result.healthy


def test_models_side_by_side() -> None:
    """A chat model, an embedding model without an output layer, and a reranker: their pieces, all of them."""
    names = ("qwen3-1.7b", "qwen3-embedding-0.6b", "qwen3-reranker-0.6b")
    requests = [candidate(name, "int4", 2048) for name in names]
    joint = together(requests)
    assert joint.footprint.total == sum(request.footprint.total for request in requests)
    assert joint.footprint.pieces[-1] == max(request.footprint.pieces[-1] for request in requests)
    assert joint.context == 0
    _, embedder, reranker = (request.footprint.weights for request in requests)
    # The two differ by the output layer: 151,669 rows of 1024 columns in 4 bits, a scale and a zero point for each 64.
    assert reranker - embedder == pytest.approx(151_669 * 1024 * (4 + 24 / 64) / 8, rel=0.05)


def test_each_part_of_a_model_is_compared_with_a_chip_of_its_own(tmp_path: Path) -> None:
    found = find_request("qwen1.5-7b-chat", precision("f16"), None, parts=2, offline=True, progress=Silent())
    texts = [str(finding) for finding in memory_findings(found, recorded("sc7", tmp_path))]
    assert [text for text in texts if "it fits on device" in text][1].startswith("it fits on device 1")
    assert "layers 1 to 18" in texts[0]
    assert "layers 19 to 32" in texts[2]
    assert len(found.to_dict()["further_parts"]) == 1
    # As few as there is memory for; a card of four chips has no fifth.
    assert find_request(
        "qwen1.5-7b-chat", precision("f16"), None, parts=None, offline=True, progress=Silent()
    ).further
    many = find_request("qwen1.5-7b-chat", precision("f16"), None, parts=5, offline=True, progress=Silent())
    assert "there is no device 4" in [str(f) for f in memory_findings(many, recorded("sc7", tmp_path))][-1]
