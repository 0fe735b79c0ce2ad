"""Programs in place of the vendor's, which leave the same files in no time and keep count of their runs."""

import os
import sys
from pathlib import Path

from bmqwen.compiler.toolchain import Toolchain

_COMPILER = """
import json, os, re, signal, sys, time
from pathlib import Path
arguments = " ".join(sys.argv[1:])
if "--codegen" not in arguments:
    sys.exit(0)
text = Path("step.mlir").read_text()
tokens = re.search(r"%arg0: tensor<1x(\\d+)x", text)[1]
rows = re.search(r"%arg3: tensor<(\\d+)x", text)[1]
queries, columns = re.search(r"%arg2: tensor<1x1x(\\d+)x(\\d+)x", text).groups()
history = int(columns) - int(tokens)
stage = f"{tokens}-{history}"
with open(TRACE, "a") as trace:
    trace.write(stage + "\\n")
BEHAVIOUR
size = Path("weights.npz").stat().st_size
Path("step.bmodel").write_text(
    f"stage 0\\ninput: input_states, [1, {tokens}, 8], float16\\n"
    f"input: attention_mask, [1, 1, {queries}, {columns}], float16\\n"
    f"input: last_row, [{rows}], int32\\n{size}\\n"
)
Path("scratch.npz").write_text("large")
Path("compiler_profile_0.txt").write_text(
    f"API_END total_cycle:{1000 * int(tokens)}|b:1|g:2\\n"
    "GDMA SUMMARY : |dr[0] S2L:300|dr[1] L2S:20|dr[2] S2S:1|dr[3] L2L:0\\n"
)
"""

# What it joins are texts, behind the description of a bmodel without nets.
_MODEL_TOOL = """
import struct, sys
from pathlib import Path
DESCRIPTION = struct.pack("<IHHi", 8, 4, 4, 4)
MAGIC = struct.pack("<I", 0xFF55AAEE)
def text(name):
    content = Path(name).read_bytes()
    return content[64 + len(DESCRIPTION):] if content.startswith(MAGIC) else content
if sys.argv[1] == "--info":
    print("net 0: [step]  static")
    print(text(sys.argv[2]).decode())
    print("device mem size: 1000 (weight: 1, instruct: 2, runtime: 3)")
else:
    at = sys.argv.index("-o")
    joined = b"".join(text(name) for name in sys.argv[2:at])
    head = MAGIC + struct.pack("<3I48x", 64, len(DESCRIPTION), len(joined))
    Path(sys.argv[at + 1]).write_bytes(head + DESCRIPTION + joined)
"""


def stand_in(folder: Path, behaviour: str = "", name: str = "root") -> Toolchain:
    """A toolchain whose compiler runs `behaviour` (Python, knowing `stage`, "TOKENS-HISTORY") on each net.

    Every net that is compiled adds a line to `folder/trace`.
    """
    trace = folder / "trace"
    for program, text in (
        ("tpuc-opt", _COMPILER.replace("TRACE", repr(str(trace))).replace("BEHAVIOUR", behaviour)),
        ("model_tool", _MODEL_TOOL),
    ):
        path = folder / name / "bin" / program
        path.parent.mkdir(parents=True, exist_ok=True)
        # The compiler's size is part of its identity, and two behaviours are to be one compiler.
        content = f"#!{sys.executable}\n{text}".ljust(8192, "#")
        # Another process may be running it, or looking at its size: never half-written, and not written in vain.
        if not path.exists() or path.read_text() != content:
            beside = path.with_name(f"{program}.{os.getpid()}")
            beside.write_text(content)
            beside.chmod(0o755)
            beside.replace(path)
    return Toolchain(folder / name, "stand-in", folder / "state")


def compiled(folder: Path) -> list[str]:
    """The nets that were compiled so far, in the order of their starts."""
    trace = folder / "trace"
    return trace.read_text().split() if trace.exists() else []
