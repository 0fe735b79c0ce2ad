"""A conversation with a model whose state cannot be cut costs what is new in it."""

from pathlib import Path

import pytest

from bmqwen.engine import Engine, load
from bmqwen.generate.params import SamplingParams
from bmqwen.quant.precision import Precision
from bmqwen.runtime.cpu import TAIL, CpuRuntime
from support.checkpoints import tiny_config, write_checkpoint
from support.toy_runtime import drain


@pytest.fixture(name="engine")
def engine_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setenv("BMQWEN_CACHE", str(tmp_path / "cache"))
    config = tiny_config("qwen3.5", layers=4, max_position_embeddings=512)
    model = write_checkpoint(tmp_path / "model", config, seed=4)
    return load(model, "cpu", precision=Precision("f32", 32, "f32"), threads=1)


def test_next_turns_and_other_answers(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    run = CpuRuntime._run

    def counted(self: CpuRuntime, place: int, ids: list[list[int]], *more: object) -> object:
        rows.append(len(ids[0]))
        return run(self, place, ids, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(CpuRuntime, "_run", counted)
    with engine:
        chat = engine.chat(params=SamplingParams(max_tokens=12))
        _, first = drain(chat.reply("hello you and the system"))
        assert sum(rows) == first.usage.prompt_tokens + 11  # the last token is not fed
        rows.clear()
        _, again = drain(chat.regenerate())
        assert (again.text, again.usage.cached_tokens) == (first.text, first.usage.prompt_tokens - 1)
        assert sum(rows) == TAIL + 11
        rows.clear()
        _, second = drain(chat.reply("and you"))
        new = second.usage.prompt_tokens - second.usage.cached_tokens
        assert new < first.usage.prompt_tokens
        assert sum(rows) == new + second.usage.completion_tokens - 1
