"""llm (Simon Willison's command): a model of extra-openai-models.yaml, with and without a tool."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

URL = sys.argv[1]
with tempfile.TemporaryDirectory() as folder:
    (Path(folder) / "extra-openai-models.yaml").write_text(
        f"- model_id: bmqwen\n  model_name: demo\n  api_base: {URL}/v1\n  api_key_name: none\n  supports_tools: true\n"
    )
    command = [
        sys.executable,
        "-m",
        "llm",
        "-m",
        "bmqwen",
        "--key",
        "none",
        "-o",
        "max_tokens",
        "60",
    ]
    for more in ([], ["--no-stream"], ["-T", "llm_version", "--cl", "2"]):
        done = subprocess.run(
            [*command, *more, "Say hi."],
            capture_output=True,
            text=True,
            env=os.environ | {"LLM_USER_PATH": folder},
            check=False,
        )
        # A small model may call for ever; each call was one.
        assert done.returncode == 0 or "Chain limit of 2 exceeded" in done.stderr, done.stderr
