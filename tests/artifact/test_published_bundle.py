"""What a bmodel says of itself, and a published one as a bundle: read from the file, refused in words."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bmqwen.artifact.bmodel import read_description
from bmqwen.artifact.bundle import Bundle
from bmqwen.artifact.published import open_published
from bmqwen.errors import BmqwenError, BundleError, InputError
from bmqwen.quant.precision import Precision
from bmqwen.resolve import resolve_bundle
from bmqwen.util.progress import Silent
from support.bmodel_files import BF16, F32, FakeBmodel, FakeNet, FakeTensor, published_nets
from support.checkpoints import tiny_config, write_checkpoint

NAME = "qwen1.5-1.8b_int4_1dev.bmodel"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer, as of any checkpoint."""
    folder = tmp_path_factory.mktemp("model")
    write_checkpoint(folder / "model", tiny_config(), seed=1)
    return folder / "model"


def beside(tokenizer: Path, folder: Path) -> None:
    """Put the tokenizer's files there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder / name)


def test_description_of_every_net(tmp_path: Path) -> None:
    bmodel = read_description(FakeBmodel(published_nets(2)).write(tmp_path / NAME))
    assert (bmodel.chip, bmodel.chips, bmodel.compiler) == ("BM1684X", 1, "2.2")
    assert list(bmodel.nets)[:4] == ["embedding", "embedding_cache", "lm_head", "block_0"]
    step = bmodel.nets["block_cache_1"]
    assert (step.address_mode, step.dynamic, len(step.stages)) == (1, False, 1)
    mask = step.stages[0].inputs[2]
    assert (mask.name, mask.dtype, mask.shape) == ("attention_mask", "f16", (1, 1, 1, 41))
    # Two layers' weights once each, the largest intermediate results, and what 7 nets keep apart.
    assert bmodel.device_bytes == 2 * 5000 + 1000 + 7 * 200


def test_published_file_becomes_a_bundle(tokenizer: Path, tmp_path: Path) -> None:
    beside(tokenizer, tmp_path)
    path = FakeBmodel(published_nets(3, half=BF16)).write(tmp_path / NAME)
    bundle = open_published(path)
    config = bundle.config
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (3, 64, 320)
    assert (config.num_key_value_heads, config.head_dim, config.num_attention_heads) == (2, 16, 4)
    assert (bundle.details["context"], bundle.details["half"], bundle.details["precision"]) == (
        40,
        "bf16",
        "int4",
    )
    assert (bundle.bmodel, bundle.tokenizer_folder, bundle.model) == (path, tmp_path, NAME)
    for named in (path, tmp_path):
        assert resolve_bundle(str(named), Precision(), progress=Silent()) == bundle


def test_a_head_that_gives_a_token_only_leaves_the_vocabulary_to_the_tokenizer(
    tokenizer: Path, tmp_path: Path
) -> None:
    beside(tokenizer, tmp_path)
    path = FakeBmodel(published_nets(vocab=None)).write(tmp_path / NAME)
    words = open_published(path).config.vocab_size
    assert 256 < words < 320
    greedy = FakeNet("greedy_head", [FakeTensor("m_logits", F32, (1, 320))], [])
    FakeBmodel([*published_nets(vocab=None), greedy]).write(path)
    assert open_published(path).config.vocab_size == 320


def test_cache_is_counted_where_the_nets_do_not_bring_it(tokenizer: Path, tmp_path: Path) -> None:
    beside(tokenizer, tmp_path)
    nets = [replace(net, address_mode=0, io_bytes=0) for net in published_nets(2)]
    bundle = open_published(FakeBmodel(nets).write(tmp_path / NAME))
    assert bundle.details["device_bytes"] == 2 * 5000 + 1000 + 2 * 2 * 40 * 2 * 16 * 2


def opened(path: Path) -> Bundle:
    """As a command opens it."""
    return resolve_bundle(str(path), Precision(), progress=Silent())


def test_tokenizer_is_found_where_the_publishers_scripts_put_it_or_in_the_cache(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sample" / "models" / "BM1684X" / NAME
    path.parent.mkdir(parents=True)
    FakeBmodel(published_nets()).write(path)
    with pytest.raises(BundleError, match=r"no tokenizer .* of qwen1\.5-1\.8b-chat .*--source sophgo"):
        opened(path)
    models = tmp_path / "cache" / "models"
    monkeypatch.setenv("BMQWEN_CACHE", str(tmp_path / "cache"))
    for name in ("qwen1.5-0.5b-chat", "qwen1.5-1.8b-chat", "qwen2-0.5b-instruct"):
        beside(tokenizer, models / name)
        for file in ("config.json", "model.safetensors"):
            (models / name / file).write_text("{}")
    assert opened(path).tokenizer_folder == models / "qwen1.5-1.8b-chat"
    beside(tokenizer, tmp_path / "sample" / "python" / "token_config")
    assert opened(path).tokenizer_folder == tmp_path / "sample" / "python" / "token_config"


def test_caches_are_not_searched_for_a_tokenizer_that_is_there(tokenizer: Path, tmp_path: Path) -> None:
    beside(tokenizer, tmp_path)
    path = FakeBmodel(published_nets()).write(tmp_path / NAME)
    bundle = open_published(path, lambda: pytest.fail("searched"))
    assert bundle.tokenizer_folder == tmp_path


@pytest.mark.parametrize(
    ("bmodel", "words"),
    [
        (FakeBmodel([FakeNet("yolo", [], [])]), r"unknown nets \(yolo; without embedding\)"),
        (FakeBmodel([]), r"unknown nets \(none at all"),
        (FakeBmodel([FakeNet("step", [], [])]), "is the bmodel of a bundle.*name the bundle's folder"),
        (FakeBmodel(published_nets(), chip="BM1688"), "was compiled for BM1688, and only nets for BM1684X"),
        (FakeBmodel(published_nets(), chips=2), "for several chips at once"),
        (FakeBmodel([n for n in published_nets(3) if n.name != "block_1"]), "lacks the nets of some layers"),
        (
            FakeBmodel(
                [replace(n, outputs=n.outputs[:1]) if n.name == "block_0" else n for n in published_nets()]
            ),
            "net block_0 is not a layer of a Qwen model",
        ),
    ],
)
def test_other_nets_are_refused_with_the_cure(
    bmodel: FakeBmodel, words: str, tokenizer: Path, tmp_path: Path
) -> None:
    beside(tokenizer, tmp_path)
    with pytest.raises(BundleError, match=words):
        open_published(bmodel.write(tmp_path / NAME))


def test_missing_file_is_not_looked_for_on_the_network(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file or folder"):
        resolve_bundle(str(tmp_path / "none.bmodel"), Precision(), progress=Silent())


def change(content: bytes, places: list[tuple[int, int]]) -> bytes:
    """Some bytes changed."""
    changed = bytearray(content)
    for place, value in places:
        changed[place % len(changed)] = value
    return bytes(changed)


def cut(content: bytes, places: list[tuple[int, int]]) -> bytes:
    """The end gone."""
    return content[: places[0][0] % len(content)]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.tuples(st.integers(16, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4),
    st.sampled_from([change, cut]),
)
def test_damaged_files_are_sentences(
    tokenizer: Path,
    tmp_path: Path,
    places: list[tuple[int, int]],
    damage: Callable[[bytes, list[tuple[int, int]]], bytes],
) -> None:
    beside(tokenizer, tmp_path)
    content = FakeBmodel(published_nets()).write(tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(damage(content, places))
    message = ""
    try:
        open_published(tmp_path / NAME)
    except BmqwenError as error:
        message = str(error)
    assert message.isprintable()
