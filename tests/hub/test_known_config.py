"""A model's configuration by its name, without weights and without network."""

from pathlib import Path

import pytest

from bmqwen.errors import BmqwenError, DownloadError, InputError
from bmqwen.hub.known_config import known_config
from support.checkpoints import tiny_config, write_checkpoint


def test_of_a_short_name_and_of_its_hub_id() -> None:
    name, config = known_config("qwen1.5-1.8b-chat", offline=True)
    assert (name, config.hidden_size, config.num_hidden_layers) == ("qwen1.5-1.8b-chat", 2048, 24)
    assert known_config("Qwen/Qwen1.5-1.8B-Chat", offline=True)[1] == config


def test_of_a_folder_only_the_configuration_is_read(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model", tiny_config(), seed=1)
    for file in (tmp_path / "model").glob("*.safetensors"):
        file.unlink()
    assert known_config(str(tmp_path / "model")) == ("model", tiny_config())


def test_of_an_unknown_hub_id_offline() -> None:
    with pytest.raises(DownloadError, match="offline mode is on"):
        known_config("Nobody/Nothing-1B", offline=True)


def test_bad_names_and_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown model 'nothing'"):
        known_config("nothing")
    with pytest.raises(InputError, match=r"has no config\.json"):
        known_config(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BmqwenError, match="not valid JSON"):
        known_config(str(tmp_path))
