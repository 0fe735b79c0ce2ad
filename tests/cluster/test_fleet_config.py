"""Fleets that cannot be: one sentence each, before anything is started."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from bmqwen.cluster.config import FleetConfig, Scale, parse_config, read_config
from bmqwen.cluster.readiness import NodeReport, problems_of, require_ready
from bmqwen.errors import DeviceError, InputError, StorageError
from bmqwen.version import __version__


def node(**changes: Any) -> NodeReport:
    fields: dict[str, Any] = {
        "address": "10.0.0.2",
        "resources": {"CPU": 8.0},
        "version": __version__,
        "cache": "/var/cache",
        "free_bytes": 10 << 30,
    }
    return NodeReport(**fields | changes)


def fleet(*models: dict[str, Any], **settings: Any) -> FleetConfig:
    return parse_config({"models": [{"model": "m", **model} for model in models], **settings}, "fleet.yaml")


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(
        "models:\n- {model: qwen3-0.6b, chip: bm1684x, replicas: {min: 2, max: 6}}\n- {model: demo, name: small}\n"
    )
    config = read_config(path)
    first, second = config.models
    assert first.replicas == Scale(min=2, max=6)
    assert (first.fewest, first.deployment) == (2, "qwen3-0-6b")
    assert (second.replicas, second.deployment) == (1, "small")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: []", "models: "),
        ("{}", "models is missing"),
        ("- a", "it must have the key models"),
        ("models: [{model: a, modle: b}]", "there is no key models[0].modle"),
        ("models: [{model: a}]\nhots: all", "there is no key hots"),
        ("models: [{model: a}, {model: a}]", "two models named a"),
        ("models: [{model: a, replicas: {min: 3, max: 2}}]", "models[0].replicas: min is larger than max"),
        ("models: [{model: a, quant: int4, group_size: 7}]", "7"),
        ("models: [{model: a, quant: int3}]", "models[0].quant"),
        ("models: [{model: a, replicas: many}]", "models[0].replicas"),
        ("models: [{model: a", "line 1"),
    ],
)
def test_a_configuration_that_cannot_be_used(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_config(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("report", "model", "kind", "words"),
    [
        (node(version=""), {}, InputError, "has no bmqwen"),
        (node(version="0.0.9"), {}, InputError, "has bmqwen 0.0.9, but here it is"),
        (node(free_bytes=5 << 20), {}, StorageError, "free some space"),
        (node(), {"threads": 16}, InputError, "the largest node has 8 cores"),
        (
            node(),
            {"chip": "bm1684x", "replicas": 2},
            InputError,
            "wants 2 of the chip bm1684x, but the nodes have 0",
        ),
        (
            node(resources={"CPU": 8.0, "bm1684x": 4.0}, chips=4),
            {"chip": "bm1684x", "chips": 3, "replicas": 2},
            InputError,
            "wants 6 of the chip bm1684x, but the nodes have 4",
        ),
        (
            node(resources={"CPU": 8.0, "bm1684x": 3.0}, chips=2),
            {"chip": "bm1684x", "replicas": 2},
            DeviceError,
            "was started with 3 of the chip bm1684x, but has 2 that work",
        ),
    ],
)
def test_nodes_that_cannot_run_it(
    report: NodeReport, model: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind) as caught:
        require_ready(fleet(model), [report])
    assert words in str(caught.value)


def test_the_chips_of_a_replica_are_of_one_node() -> None:
    config = fleet({"chip": "bm1684x", "chips": 3})
    nodes = [node(resources={"CPU": 8.0, "bm1684x": 2.0}, chips=2)] * 2
    with pytest.raises(
        InputError, match="takes 3 of the chip bm1684x on one node, but no node has more than 2"
    ):
        require_ready(config, nodes)


def test_nodes_that_can() -> None:
    config = fleet({"chip": "bm1684x", "chips": 3}, {"model": "demo", "threads": 8})
    nodes = [node(), node(resources={"CPU": 4.0, "bm1684x": 3.0}, chips=3)]
    assert list(problems_of(config, nodes)) == []


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_guides_files_are_fleets(language: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / language / "cluster.md").read_text(encoding="utf-8")
    own, deploy, kuberay = (
        yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    )
    inner = yaml.safe_load(kuberay["spec"]["serveConfigV2"])
    applications = [*deploy["applications"], *inner["applications"]]
    assert {each["import_path"] for each in applications} == {"bmqwen.cluster:app"}
    for content in (own, *(each["args"] for each in applications)):
        assert parse_config(content, page).models


def test_what_an_update_replaces() -> None:
    (model,) = fleet({}).models
    assert model.model_copy(update={"replicas": 3, "threads": 2}).identity == model.identity
    for change in ({"quant": "int8"}, {"update": "its files have changed"}):
        assert model.model_copy(update=change).identity != model.identity


def test_without_ray_its_extra_is_named(tmp_path: Path) -> None:
    missing = "import sys; sys.modules['ray'] = None"
    command = f"{missing}\nfrom bmqwen.cli.app import run\nprint(run(['cluster', 'serve', {str(tmp_path / 'f')!r}]))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "1"
    assert "a fleet needs ray: pip install -e" in done.stderr
    assert len(done.stderr.splitlines()) == 1
