"""What the code base promises about itself."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rmsprop_fast as rf

ROOT = Path(__file__).resolve().parents[1]


def text(name: str) -> str:
    return (ROOT / name).read_text()


def test_the_update_is_written_once() -> None:
    """Square roots and divisions of arrays are in kernel.cpp, and in the reference."""
    sources = {path.name: path.read_text() for path in (ROOT / "csrc").glob("*.[ch]pp")}
    assert [name for name, source in sources.items() if re.search(r"\bsqrtf?\(x\)", source)] == ["kernel.cpp"]
    assert sources["kernel.cpp"].count(" / (square_root(") == 1
    assert not any(re.search(r"_mm\d*_|immintrin|arm_neon", source) for source in sources.values())


def test_openmp_is_in_one_place() -> None:
    sources = {path.name: path.read_text() for path in (ROOT / "csrc").glob("*.[ch]pp")}
    assert [name for name, source in sources.items() if "#pragma omp" in source or "omp.h" in source] == [
        "parallel.cpp"
    ]


def test_calls_go_one_way() -> None:
    """Kernel and engine know nothing of Python; each room includes only what comes after it."""
    allowed = {
        "hyper.hpp": set(),
        "kernel.hpp": {"hyper.hpp"},
        "dispatch.hpp": {"kernel.hpp"},
        "cpus.hpp": set(),
        "parallel.hpp": {"kernel.hpp"},
        "tree.hpp": set(),
        "buffers.hpp": {"kernel.hpp", "tree.hpp"},
        "state.hpp": {"buffers.hpp", "hyper.hpp"},
        "docs.hpp": set(),
    }
    headers = {path.name: path.read_text() for path in (ROOT / "csrc").glob("*.hpp")}
    assert {name: set(re.findall(r'#include "(.*)"', header)) for name, header in headers.items()} == allowed
    for name in ("kernel", "dispatch", "cpus", "parallel"):
        for path in (ROOT / "csrc").glob(f"{name}.?pp"):
            assert "pybind11" not in path.read_text()


@pytest.mark.parametrize("name", [name for name in rf.__all__ if name != "__version__"])
def test_every_public_name_is_documented(name: str) -> None:
    thing = getattr(rf, name)
    doc = inspect.getdoc(thing)
    assert doc
    if inspect.isroutine(thing):
        parameters = inspect.signature(thing).parameters
        assert ("Parameters\n---" in doc) == bool(parameters)
        for parameter in parameters:
            assert re.search(rf"^{parameter} : ", doc, re.MULTILINE)


def test_attributes_of_the_state_are_documented() -> None:
    for name in ("s", "lr", "rho", "eps", "steps"):
        assert inspect.getdoc(getattr(rf.State, name))


def test_the_examples_in_the_readme_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", text("README.md"), re.DOTALL)
    assert blocks
    for block in blocks:
        subprocess.run([sys.executable, "-c", block], check=True)


def test_readme_and_ci_agree_on_the_two_commands() -> None:
    commands = re.findall(r"^    (pip install .*?)(?: +#.*)?$", text("README.md"), re.MULTILINE)[:2]
    assert commands == ["pip install '.[cli]' && python -m rmsprop_fast fit", "pip install '.[test]' && pytest"]


def test_the_version_has_one_source_and_a_change_log() -> None:
    (version,) = re.findall(r'^version = "(.*)"', text("pyproject.toml"), re.MULTILINE)
    assert rf.__version__ == version
    assert f"## {version}" in text("CHANGELOG.md")
