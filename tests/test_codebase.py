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
    """In one file: the means, and the division by the root, once with options and once without."""
    sources = {path.name: path.read_text() for path in (ROOT / "csrc").glob("*.[ch]pp")}
    assert [name for name, source in sources.items() if re.search(r"\bsqrtf?\(x\)", source)] == ["update.hpp"]
    for written, times in (("s = h.rho * s + h.one_minus_rho", 1), (" / (square_root(", 2), (" p = p - step_size", 1)):
        counts = {name: source.count(written) for name, source in sources.items() if written in source}
        assert counts == {"update.hpp": times}
    assert not any(re.search(r"_mm\d*_|immintrin|arm_neon", source) for source in sources.values())


def test_openmp_is_in_one_place() -> None:
    sources = {path.name: path.read_text() for path in (ROOT / "csrc").glob("*.[ch]pp")}
    assert [name for name, source in sources.items() if "#pragma omp" in source or "omp.h" in source] == ["openmp.cpp"]


def test_calls_go_one_way() -> None:
    """The engine knows nothing of Python; each room includes only what comes after it."""
    engine = {
        "hyper.hpp": set(),
        "elements.hpp": set(),
        "leaf.hpp": {"elements.hpp", "hyper.hpp"},
        "kernel.hpp": {"leaf.hpp"},
        "half.hpp": {"hyper.hpp"},
        "limits.hpp": {"kernel.hpp"},
        "tile.hpp": {"half.hpp", "kernel.hpp"},
        "update.hpp": {"kernel.hpp"},
        "compact.hpp": {"half.hpp", "kernel.hpp"},
        "compact_update.hpp": {"compact.hpp", "tile.hpp", "update.hpp"},
        "fit.hpp": {"leaf.hpp"},
        "dispatch.hpp": {"kernel.hpp"},
        "gradient.hpp": {"kernel.hpp"},
        "pieces.hpp": {"kernel.hpp"},
        "rows.hpp": {"kernel.hpp"},
        "openmp.hpp": set(),
        "cpus.hpp": set(),
        "threads.hpp": set(),
        "workers.hpp": set(),
        "step.hpp": {"gradient.hpp", "kernel.hpp", "threads.hpp"},
        "hyper.cpp": {"hyper.hpp", "kernel.hpp"},
        "kernel.cpp": {"compact_update.hpp", "kernel.hpp", "limits.hpp", "tile.hpp", "update.hpp"},
        "fit.cpp": {"fit.hpp"},
        "dispatch.cpp": {"dispatch.hpp"},
        "gradient.cpp": {"gradient.hpp"},
        "openmp.cpp": {"openmp.hpp"},
        "cpus.cpp": {"cpus.hpp", "openmp.hpp"},
        "threads.cpp": {"cpus.hpp", "openmp.hpp", "threads.hpp"},
        "workers.cpp": {"cpus.hpp", "workers.hpp"},
        "rows.cpp": {"rows.hpp"},
        "step.cpp": {"openmp.hpp", "pieces.hpp", "rows.hpp", "step.hpp", "threads.hpp", "workers.hpp"},
    }
    fronts = {
        "in_use.hpp": set(),
        "dlpack.hpp": set(),
        "docs.hpp": set(),
        "values.hpp": set(),
        "tree.hpp": set(),
        "options.hpp": {"elements.hpp", "hyper.hpp", "values.hpp"},
        "arrays.hpp": {"fit.hpp", "options.hpp", "tree.hpp"},
        "sparse.hpp": {"arrays.hpp", "rows.hpp"},
        "buffers.hpp": {"arrays.hpp", "rows.hpp"},
        "packed.hpp": {"arrays.hpp"},
        "state.hpp": {"buffers.hpp", "gradient.hpp", "hyper.hpp", "in_use.hpp", "options.hpp", "step.hpp"},
        "tensors.hpp": {"fit.hpp", "values.hpp"},
        "tensor_rows.hpp": {"rows.hpp", "tensors.hpp"},
        "group_options.hpp": {"hyper.hpp", "options.hpp", "tensors.hpp"},
        "param_groups.hpp": {
            *(
                "fit.hpp",
                "gradient.hpp",
                "group_options.hpp",
                "in_use.hpp",
                "step.hpp",
                "tensor_rows.hpp",
                "tensors.hpp",
            ),
        },
        "values.cpp": {"values.hpp"},
        "tree.cpp": {"tree.hpp", "values.hpp"},
        "options.cpp": {"options.hpp"},
        "arrays.cpp": {"arrays.hpp"},
        "sparse.cpp": {"sparse.hpp"},
        "packed.cpp": {"dispatch.hpp", "packed.hpp"},
        "buffers.cpp": {"buffers.hpp", "packed.hpp", "sparse.hpp"},
        "state.cpp": {"dispatch.hpp", "state.hpp"},
        "tensors.cpp": {"dispatch.hpp", "dlpack.hpp", "tensors.hpp"},
        "tensor_rows.cpp": {"tensor_rows.hpp"},
        "group_options.cpp": {"group_options.hpp"},
        "param_groups.cpp": {"param_groups.hpp"},
        "module.cpp": {
            *("cpus.hpp", "dispatch.hpp", "docs.hpp", "openmp.hpp", "param_groups.hpp", "sparse.hpp"),
            *("state.hpp", "step.hpp", "threads.hpp", "workers.hpp"),
        },
    }
    sources = {path.name: path.read_text() for path in (ROOT / "csrc").glob("*.[ch]pp")}
    included = {name: set(re.findall(r'#include "(.*)"', source)) for name, source in sources.items()}
    assert included == engine | fronts
    assert not [name for name in engine if "pybind11" in sources[name] or "Python.h" in sources[name]]


def test_no_file_is_long() -> None:
    paths = [path for folder in ("csrc", "python") for path in (ROOT / folder).rglob("*.[chp][py]*") if path.is_file()]
    lengths = {
        str(path): len(path.read_text().splitlines()) for path in paths if path.suffix in (".cpp", ".hpp", ".py")
    }
    assert len(lengths) > 40
    assert not {name: length for name, length in lengths.items() if length > 325}  # about 300


def test_tests_import_no_tests() -> None:
    """What several of them need is in a module of its own."""
    sources = {path.name: path.read_text() for path in (ROOT / "tests").glob("*.py")}
    imported = {
        name: re.findall(r"^\s*(?:from|import) (test_\w+)", text, re.MULTILINE) for name, text in sources.items()
    }
    assert "test_codebase.py" in imported
    assert not {name: found for name, found in imported.items() if found}


def test_a_hyper_parameter_is_one_row() -> None:
    """Its name and default are nowhere else in C++ but in the struct: signature and docstrings come from the row."""
    sources = {path.name: path.read_text() for path in (ROOT / "csrc").glob("*.[ch]pp")}
    struct = sources["hyper.hpp"].split("struct Hyper {")[1].split("\n\n")[0]
    names = list(inspect.signature(rf.init).parameters)[1:]
    assert names == re.findall(r"(?:double|bool|int|Lazy|StateDtype|Rounding) (\w+) = ", struct)
    for name in names:
        quoted = [file for file, source in sources.items() for _ in re.findall(rf'"{name}[" =]', source)]
        assert set(quoted) == {"options.cpp"}
        assert len(re.findall(rf'^    {{"{name}", ', sources["options.cpp"], re.MULTILINE)) == 1
        assert name == "lr" or f"{name} : " not in sources["docs.hpp"]


@pytest.mark.parametrize("name", [name for name in rf.__all__ if name != "__version__"])
def test_every_public_name_is_documented(name: str) -> None:
    thing = getattr(rf, name)
    doc = inspect.getdoc(thing)
    assert doc
    if inspect.isroutine(thing):
        parameters = inspect.signature(thing).parameters
        assert ("Parameters\n---" in doc) == bool(parameters)
        for parameter in parameters:
            assert re.search(rf"^(\w+, )*{parameter}(, \w+)* : ", doc, re.MULTILINE)


def test_attributes_of_the_state_are_documented() -> None:
    kept = ("s", "variance", "grad_avg", "momentum_buffer", "steps", "skipped", "grad_norm")
    for name in (*kept, *list(inspect.signature(rf.init).parameters)[1:]):
        assert inspect.getdoc(getattr(rf.State, name))


def test_defaults_of_init_are_those_of_its_signature() -> None:
    """C++ has them once, in hyper.hpp."""
    state = rf.init([])
    doc = inspect.getdoc(rf.init)
    assert doc
    for name, parameter in list(inspect.signature(rf.init).parameters.items())[1:]:
        value = getattr(state, name)
        assert (value, type(value)) == (parameter.default, type(parameter.default))
        assert re.search(rf"^{name} : .*default {re.escape(repr(value))}\n    \w", doc, re.MULTILINE)
        assert f" Default {value!r}" in getattr(rf.State, name).__doc__


def run_examples(page: str, tmp_path: Path, *, with_torch: bool = False) -> None:
    """Run the Python blocks of a page that need torch, or that do not, one after another in one process."""
    blocks = re.findall(r"```python\n(.*?)```", text(page), re.DOTALL)
    wanted = [block for block in blocks if ("import torch" in block) == with_torch]
    assert wanted
    subprocess.run([sys.executable, "-c", "\n".join(wanted)], check=True, cwd=tmp_path)


@pytest.mark.parametrize("page", ["README.md", "docs/fit.md", "docs/sparse.md", "docs/compact.md"])
def test_the_examples_run(page: str, tmp_path: Path) -> None:
    run_examples(page, tmp_path)


@pytest.mark.parametrize("page", ["README.md", "docs/sparse.md"])
def test_the_examples_with_torch_run(page: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    run_examples(page, tmp_path, with_torch=True)


def test_the_readme_has_the_two_commands_that_ci_runs() -> None:
    commands = re.findall(r"^    (pip install .*?)(?: +#.*)?$", text("README.md"), re.MULTILINE)[:2]
    assert commands == ["pip install '.[cli]' && python -m rmsprop_fast fit", "pip install '.[test]' && pytest"]
    for position in (1, 2):  # .ci/run takes them from the README by the same pattern
        extract = text(".ci/run").split("readme_command() { ")[1].split(" }\n")[0].replace("$1", str(position))
        shell = subprocess.run(["bash", "-c", extract], cwd=ROOT, capture_output=True, text=True, check=True)
        assert shell.stdout.strip() == commands[position - 1]


def test_the_readme_has_a_table_of_measured_speeds() -> None:
    section = text("README.md").split("## Speed")[1].split("\n## ")[0]
    assert section.count("\n| ") >= 7
    assert "benchmarks/test_targets.py" in section


def test_msvc_gets_no_flags_of_other_compilers() -> None:
    branches = re.findall(r"if\(MSVC\)\n(.*?)else\(\)", text("CMakeLists.txt"), re.DOTALL)
    assert len(branches) == 3
    assert not any(re.search(r"\s-\w", branch) for branch in branches)


def test_the_version_has_one_source_and_a_change_log() -> None:
    (version,) = re.findall(r'^version = "(.*)"', text("pyproject.toml"), re.MULTILINE)
    assert rf.__version__ == version
    assert f"## {version}" in text("CHANGELOG.md")
