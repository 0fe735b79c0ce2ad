"""aider: it edits a file of a repository as it is told, in its format for whole files."""

import os
import subprocess
import sys
from pathlib import Path

URL = sys.argv[1]
repository = Path("repository")
repository.mkdir()
file = repository / "calc.py"
file.write_text("def add(a, b):\n    return a - b\n")
subprocess.run(["git", "init", "-q", repository], check=True)
command = """
    --model openai/demo --edit-format whole --map-tokens 0 --yes-always --no-auto-commits --no-gitignore
    --no-check-update --no-show-model-warnings --no-show-release-notes --analytics-disable --no-pretty
"""
subprocess.run(
    [
        *(sys.executable, "-m", "aider", *command.split()),
        *("--message", "Fix the bug in add: it must add.", file.name),
    ],
    cwd=repository,
    env=os.environ | {"OPENAI_API_BASE": f"{URL}/v1", "OPENAI_API_KEY": "none"},
    check=True,
)
assert "a + b" in file.read_text()
