"""Compiles the pure core to C while a wheel is built, where `COMPILE_TIDEGATE=1` asks for it.

The modules stay ordinary, typed Python, and are what tests, editable installs and everybody without a C compiler run.
The image and the benchmarks are built with it. Needs mypy, whose compiler mypyc is, and a C compiler.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMPILER = (
    "mypy>=2.4,<3",
    "setuptools>=77",
    # what the compiled modules import, for its types
    "cramjam>=2.9,<3",
    "google-crc32c>=1.7,<2",
    "msgspec>=0.20,<1",
    "mypy-extensions>=1.1,<2",
    "orjson>=3.11,<4",
    "pydantic>=2.11,<3",
)
COMPILED = (
    "projections/*.py",
    "schemas/envelope.py",
    "schemas/identity.py",
    "schemas/times.py",
    "streams/batches.py",
)
"""No I/O, no pydantic models, no Faust: what runs for every event."""

NOT_COMPILED = ("projections/rows.py",)
"""Its classes are made by msgspec."""


DIRECT_CALLS = ("-fno-semantic-interposition", "-fno-plt")
"""For GCC and Clang: no other library replaces the core's functions when it is loaded, so they may call each other
directly and be inlined. Without these flags, every call goes through the dynamic linker's table: 2 % more CPU."""


class CompileHook(BuildHookInterface[Any]):
    """hatchling's custom build hook; see `[tool.hatch.build.targets.wheel.hooks.custom]`."""

    def dependencies(self) -> list[str]:
        """What an isolated build needs for it. Only where it was asked for."""
        return [*COMPILER] if self._is_asked_for else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and put the extension modules beside their sources in the wheel."""
        if not self._is_asked_for or version == "editable":
            return
        self._directory = tempfile.TemporaryDirectory()
        for module in _compile(Path(self.root), Path(self._directory.name)):
            build_data["force_include"][str(module)] = str(module.relative_to(Path(self._directory.name) / "lib"))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Delete what is in the wheel now."""
        del version, build_data, artifact_path
        if hasattr(self, "_directory"):
            self._directory.cleanup()

    @property
    def _is_asked_for(self) -> bool:
        return os.environ.get("COMPILE_TIDEGATE") == "1"


def _compile(root: Path, directory: Path) -> list[Path]:
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    sources = [
        str(file.relative_to(root))
        for pattern in COMPILED
        for file in sorted(root.glob(pattern))
        if file.name != "__init__.py" and file.relative_to(root).as_posix() not in NOT_COMPILED
    ]
    before = Path.cwd()
    os.chdir(root)
    try:
        extensions = mypycify(
            ["--config-file=pyproject.toml", *sources], opt_level="3", target_dir=str(directory / "c"), verbose=False
        )
        if sys.platform == "linux":
            for extension in extensions:
                extension.extra_compile_args += DIRECT_CALLS
        command = build_ext(Distribution({"ext_modules": extensions}))
        command.build_lib, command.build_temp = str(directory / "lib"), str(directory / "objects")
        command.parallel = os.cpu_count()
        command.ensure_finalized()
        command.run()
    finally:
        os.chdir(before)
    return [file for file in (directory / "lib").rglob("*") if file.suffix in {".so", ".pyd"}]
