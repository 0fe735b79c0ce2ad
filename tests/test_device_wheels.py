"""Everything that a device installs comes as a wheel for ARM: asked of the package index, with --registry."""

import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

# Part of Python from 3.11 on; which Python asks makes no difference to the answer.
tomllib = pytest.importorskip("tomllib")

ROOT = Path(__file__).parents[1]
# Ubuntu 20.04, which SE7 boxes run, has glibc 2.31.
PLATFORMS = [f"manylinux_2_{minor}_aarch64" for minor in (31, 28, 27, 26, 17)] + ["manylinux2014_aarch64"]


@pytest.mark.registry
@pytest.mark.parametrize("version", ["3.10", "3.12"])
def test_wheels_for_a_device(version: str, tmp_path: Path) -> None:
    target = {
        "python_version": version,
        "python_full_version": f"{version}.0",
        "platform_machine": "aarch64",
        "sys_platform": "linux",
        "platform_system": "Linux",
    }
    # pip itself would judge the constraints' markers by the Python that it runs in.
    pinned = []
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(target):
            pinned.append(f"{requirement.name}{requirement.specifier}")
    (tmp_path / "constraints.txt").write_text("\n".join(pinned))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["serve"]]
    command = [sys.executable, "-m", "pip", "download", "--only-binary=:all:", "--implementation", "cp"]
    command += [
        "--python-version",
        version,
        "-d",
        str(tmp_path / "wheels"),
        "-c",
        str(tmp_path / "constraints.txt"),
    ]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    done = subprocess.run([*command, *wanted], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    wheels = list((tmp_path / "wheels").iterdir())
    names = {wheel.name.split("-")[0].lower() for wheel in wheels}
    assert {"numpy", "tokenizers", "pydantic_core", "fastapi", "huggingface_hub"} <= names
    assert not [wheel.name for wheel in wheels if "x86_64" in wheel.name]
    print(f"Python {version}: {len(wheels)} wheels, {sum(w.stat().st_size for w in wheels) / 1e6:.1f} MB")
