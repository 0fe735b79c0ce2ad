"""The demo model in float32 against transformers: the same tokens, one after another."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bmqwen.emit.export import export_onnx
from bmqwen.engine import Engine
from bmqwen.generate.template import Message
from bmqwen.quant.precision import Precision
from bmqwen.runtime.base import RuntimeSequence
from bmqwen.runtime.cpu import CpuRuntime
from bmqwen.weights.checkpoint import open_checkpoint

pytestmark = [pytest.mark.real_model, pytest.mark.reference]
PROMPT = "请使用python写一段冒泡排序算法。"
# The first 64 tokens of what transformers answers.
ANSWER = """当然！下面是一个简单的Python冒泡排序算法的实现：

```python
def bubble_sort(arr):
    n = len(arr)
    # 遍历所有数组元素
    for i in range(n):
        # 最后i个元素已经是排序好的，不需要再比较
        for j in range"""
NEW_TOKENS = 64
ONE_BY_ONE = 16
TOLERANCE = 1e-3


@pytest.fixture(scope="module", name="engine")
def engine_fixture(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_checkpoint(demo_model) as checkpoint:
        bundle = export_onnx(checkpoint, tmp_path_factory.mktemp("demo") / "f32", Precision("f32", 32, "f32"))
    with Engine(bundle, CpuRuntime(bundle, context_length=512)) as engine:
        yield engine


def reference_model(path: Path) -> Any:
    """transformers' own Qwen2 with the checkpoint's tensors."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    with open_checkpoint(path) as checkpoint:
        config = transformers.Qwen2Config(**checkpoint.config.to_dict(), attn_implementation="eager")
        with torch.device("meta"):
            model = transformers.Qwen2ForCausalLM(config)
        tensors = {
            name: torch.from_numpy(checkpoint.weights.read(name)) for name in checkpoint.weights.names()
        }
        model.to_empty(device="cpu")
        model.load_state_dict(tensors, strict=True)
    # Not part of a state dict, so `to_empty` left it undefined.
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval()


@pytest.mark.thorough
def test_64_greedy_tokens_and_their_logits_equal_transformers(engine: Engine, demo_model: Path) -> None:
    torch = pytest.importorskip("torch")
    prompt = engine.template.encode([Message("user", PROMPT)], engine.tokenizer)
    answer = engine.tokenizer.encode(ANSWER)
    assert len(answer) == NEW_TOKENS
    sequence = RuntimeSequence(engine.runtime)
    rows = [sequence.feed(prompt).logits()[-1]]
    for token in answer[:ONE_BY_ONE]:
        rows += [sequence.feed([token]).logits()[-1].copy()]
    rows.extend(sequence.feed(answer[ONE_BY_ONE:-1], every_row=True).logits())

    with torch.no_grad():
        logits = reference_model(demo_model)(torch.tensor([prompt + answer])).logits[0].numpy()
    expected = logits[len(prompt) - 1 : -1]
    assert np.argmax(rows, axis=1).tolist() == answer
    assert expected.argmax(axis=1).tolist() == answer
    np.testing.assert_allclose(np.stack(rows), expected, atol=TOLERANCE * np.abs(expected).max(), rtol=0)
