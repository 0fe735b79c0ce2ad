"""A server of a model whose chat template never ends for some messages."""

import json
import shutil
from pathlib import Path

import httpx

from bmqwen.runtime.child_process import descendants
from support.live_server import error_of, in_background, live_server
from support.processes import wait_for_end

ENDLESS = (
    "{% if 'loop' in messages[0].content %}{% for i in range(99999) %}{% for j in range(99999) %}"
    "{% endfor %}{% endfor %}{% endif %}"
)


def test_a_template_that_hangs_hangs_no_server(talker: Path, serve_folder: Path, tmp_path: Path) -> None:
    model = shutil.copytree(talker, tmp_path / "hostile")
    path = model / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"chat_template": ENDLESS + config["chat_template"]}))
    with live_server(model, cache=serve_folder / "cache") as server:
        refused: list[httpx.Response] = []
        waiter = in_background(server, {"messages": [{"role": "user", "content": "loop"}]}, refused)
        # Others are served meanwhile or, where they need the template as well, soon after.
        assert server.client.get("/health").json()["status"] == "ok"
        assert server.chat("talk", max_tokens=3)["usage"]["completion_tokens"] == 3
        waiter.join(60)
        assert refused[0].status_code == 400
        assert "takes more than 3 s" in error_of(refused[0])["message"]
        assert server.chat("talk", max_tokens=3)["usage"]["completion_tokens"] == 3
        started = descendants(server.process.pid)
        assert server.zombies == []
    for process in started:
        wait_for_end(process)
