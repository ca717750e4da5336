"""The gate as the image has it, with its core compiled: benchmarks measure this, not the sources they stand beside."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILDS = ROOT / ".build" / "core"
PACKAGES = ("schemas", "projections", "streams", "audit", "tidegate", "local")


def compiled() -> Path:
    """A directory to put first on the path: the packages as built from the sources as they are now.

    Built once for each state of the sources, in half a minute. Where that fails (no C compiler), the sources as they
    are, with a warning: the figures then say that the core was not compiled.
    """
    directory = BUILDS / _digest()
    if not directory.exists():
        try:
            _build(directory)
        except subprocess.CalledProcessError:
            print("not compiled: the gate is measured as its sources are (is there a C compiler?)", file=sys.stderr)
            return ROOT
    return directory


def is_compiled(code: Path) -> bool:
    """Whether the core of the packages in this directory is compiled."""
    return any((code / "projections").glob("partition.*.so"))


def _build(directory: Path) -> None:
    shutil.rmtree(BUILDS, ignore_errors=True)  # builds of older sources
    BUILDS.mkdir(parents=True)
    print("compiling the gate's core, half a minute …", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=BUILDS) as work:
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        environment = os.environ | {"COMPILE_TIDEGATE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        subprocess.run([*build, "--wheel-dir", work, str(ROOT)], env=environment, check=True)
        (wheel,) = Path(work).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(Path(work) / "unpacked")
        (Path(work) / "unpacked").rename(directory)


def _digest() -> str:
    files = [ROOT / "pyproject.toml", ROOT / "hatch_build.py"]
    files += [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    whole = sha256(sys.version.encode())
    for file in files:
        whole.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes() + b"\0")
    return whole.hexdigest()[:16]
