"""A fleet as Ray's application, which is not started; with --cluster only, for Ray must be installed."""

import re
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from bmqwen.cluster.config import parse_config

pytestmark = pytest.mark.cluster


def version_of_the_front(**changes: object) -> str:
    from bmqwen.cluster.application import build

    config = parse_config({"models": [{"model": "m", **changes}]}, "fleet.yaml")
    version: str = build(config)._bound_deployment.version
    return version


def test_what_replaces_the_front() -> None:
    """What it knows of a model: its files as well, which hold the tokenizer and the template."""
    version = version_of_the_front()
    assert version_of_the_front(threads=8) == version
    for change in ({"update": "its files have changed"}, {"context": 1024}):
        assert version_of_the_front(**change) != version


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_guides_files_have_rays_settings(language: str) -> None:
    from bmqwen.cluster.running import ENVIRONMENT

    page = (Path(__file__).parents[2] / "docs" / language / "cluster.md").read_text(encoding="utf-8")
    _, deploy, kuberay = (
        yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    )
    for settings in (deploy, yaml.safe_load(kuberay["spec"]["serveConfigV2"])):
        assert settings["controller_options"]["runtime_env"]["env_vars"] == ENVIRONMENT
