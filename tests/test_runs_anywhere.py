"""Promise 4: any x86-64 or aarch64 CPU runs it; faster instructions stay in the objects that are chosen at run time."""

from __future__ import annotations

import itertools
import os
import platform
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rmsprop_fast as rf
from bits import Array, hard_values, same_bits
from processes import run_command

ROOT = Path(__file__).resolve().parents[1]
x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="looks at x86-64 instructions")
elf = pytest.mark.skipif(sys.platform != "linux" or not shutil.which("objdump"), reason="needs objdump on Linux")

# Registers that only AVX and its successors have, and their three-operand instructions on the older ones.
AVX = re.compile(r"%[yz]mm|%k[0-7]|\tv[a-z0-9]+ .*%xmm|\tvzeroupper")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a build by the project's own CMakeLists.txt, whose object files can be looked at."""
    folder = tmp_path_factory.mktemp("build")
    pybind11 = run_command(sys.executable, "-m", "pybind11", "--cmakedir").stdout.strip()
    run_command(
        *("cmake", "-G", "Ninja", "-S", ROOT, "-B", folder, "-DSKBUILD_PROJECT_VERSION=0", "-DRMSPROP_FAST_WERROR=ON"),
        *(f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11}"),
    )
    run_command("cmake", "--build", folder)
    return folder


def objects(build: Path) -> dict[str, Path]:
    """Return the object files by the name of their target and source: 'kernel_avx2/kernel.cpp'."""
    found = {f"{path.parts[-3].removesuffix('.dir')}/{path.stem}": path for path in build.rglob("*.o")}
    assert found
    return found


def disassembly(objdump: str, path: Path) -> str:
    return run_command(objdump, "-d", "-C", "--no-show-raw-insn", path).stdout


@x86_64
@elf
def test_no_avx_outside_the_objects_of_avx_kernels(build: Path) -> None:
    seen = {}
    for name, path in objects(build).items():
        seen[name] = bool(AVX.search(disassembly("objdump", path)))
    with_avx = {name for name, found in seen.items() if found}
    assert with_avx == {"kernel_avx512/kernel.cpp", "kernel_avx2/kernel.cpp"}  # which also shows that AVX is recognised
    assert {"_core/module.cpp", "engine/step.cpp", "kernel_sse2/kernel.cpp"} < set(seen)


@elf
def test_kernel_objects_share_no_symbol_with_the_rest(build: Path) -> None:
    """Weak symbols are merged by the linker, and an AVX copy might win; what is needed from outside might be inline."""
    kernels = {name: path for name, path in objects(build).items() if name.startswith("kernel_")}
    assert len(kernels) >= len(rf.kernels())
    for name, path in kernels.items():
        instruction_set = name.removeprefix("kernel_").partition("/")[0]
        symbols = re.findall(r"^[0-9a-f ]{16} (\w) (.*)$", run_command("nm", "-C", path).stdout, re.MULTILINE)
        # GCC and clang may call these functions of the C library anywhere.
        library = {("U", "memset"), ("U", "memcpy"), ("U", "memmove")}
        shared = [symbol for kind, symbol in symbols if kind not in "bdrt" and (kind, symbol) not in library]
        assert shared == [f"rmsprop_fast::{instruction_set}::kernels"]


# Square root, any multiplication, and multiplication (and addition, with FMA) in double, of whole registers. GCC 12
# sums up in half ones with avx512.
PACKED = {
    "avx512": (r"vsqrtp[sd] .*%zmm", r"vmulp[sd] .*%zmm", r"(vmul|vfmadd\d+)pd .*%[yz]mm"),
    "avx2": (r"vsqrtp[sd] .*%ymm", r"vmulp[sd] .*%ymm", r"(vmul|vfmadd\d+)pd .*%ymm"),
    "sse2": (r"sqrtp[sd] .*%xmm", r"mulp[sd] .*%xmm", r"mulpd .*%xmm"),
    "neon": (r"fsqrt\tv\d+\.[24][sd]", r"fmul\tv\d+\.[24][sd]", r"fm(ul|la)\tv\d+\.2d"),
}
ROWWISE = 128  # of the variants: they have one square root a row


def check_vectorised(instruction_set: str, code: str) -> None:
    root, product, square = PACKED[instruction_set]
    updates: dict[tuple[str, int], str] = {}  # by compute type and variant
    sums: dict[tuple[str, int], str] = {}
    for function in re.split(r"\n(?=[0-9a-f]{16} <)", code):
        if match := re.match(r"[0-9a-f]{16} <.*::(update_\w+|add_rows)<(float|double)(?:, (\d+))?>", function):
            found, variant = (sums if match[1] == "add_rows" else updates), (match[2], int(match[3] or 0))
            found[variant] = found.get(variant, "") + function
    assert len(updates) == 2 * (42 + 18)
    assert len(sums) == 2
    for (_, number), text in updates.items():
        assert re.search(product if number & ROWWISE else root, text), text.splitlines()[0]
    for text in sums.values():
        assert re.search(square, text), text.splitlines()[0]
    require_no_contraction("".join(updates.values()))


def require_no_contraction(code: str) -> None:
    assert not re.search(r"\bv?fn?m(add|sub|l[as])", code)


@elf
def test_every_loop_is_vectorised(build: Path) -> None:
    """A kernel that falls back to scalar code has the right bits and a fraction of the speed."""
    names = [match[1] for name in objects(build) if (match := re.match(r"kernel_(\w+)/", name)) and match[1] in PACKED]
    assert set(names) >= set(rf.kernels()) & set(PACKED)
    for name in names:
        check_vectorised(name, disassembly("objdump", objects(build)[f"kernel_{name}/kernel.cpp"]))


@elf
def test_the_module_is_small(build: Path, tmp_path: Path) -> None:
    (module,) = build.glob("_core*.so")
    run_command("strip", "-o", tmp_path / "stripped", module)
    assert (tmp_path / "stripped").stat().st_size < 3_000_000


@elf
def test_no_link_time_optimisation(build: Path) -> None:
    """It would mix the objects of all instruction sets; pybind11_add_module turns it on by itself."""
    commands = run_command("ninja", "-C", build, "-t", "commands").stdout
    assert "-flto" not in commands
    assert "-march=native" not in commands


def interpreter_under(emulator: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*emulator.split(), sys.executable, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
        cwd=ROOT,
    )


@x86_64
@pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="needs qemu-x86_64 (Debian's qemu-user)")
def test_the_core_passes_on_a_cpu_without_avx() -> None:
    emulator = "qemu-x86_64 -cpu Nehalem"
    names = interpreter_under(emulator, "-c", "import rmsprop_fast as rf; print(rf.kernels(), rf.get_kernel())")
    assert names.stdout.split() == ["['sse2']", "sse2"], names.stderr
    forced = interpreter_under(emulator, "-c", "import rmsprop_fast", RMSPROP_FAST_KERNEL="avx2")
    assert "expected one of 'sse2', got 'avx2', which this CPU lacks" in forced.stderr
    command = ("-m", "pytest", "-q", "-m", "core", "-k", "not test_compact_state", "-p", "no:cacheprovider", "tests")
    core = interpreter_under(emulator, *command)  # without what takes minutes there, and has the same kernels
    assert core.returncode == 0, core.stdout + core.stderr
    assert re.search(r"\d{3} passed", core.stdout)


NO_LIMIT = float("inf")
CONFIGURATIONS: list[dict[str, Any]] = [
    {},
    {"lr_per_element": True},
    {"momentum": 0.9, "nesterov": True, "centered": True, "weight_decay": 0.1, "clip_global_norm": 3.0},
    {"momentum": 0.9, "lr_per_element": True, "clip_global_norm": 3.0},
    {"rowwise": True, "momentum": 0.9, "weight_decay": 0.1},
    {"rowwise": True, "lr_per_element": True},
    {"state_dtype": "bfloat16", "rounding": "stochastic", "low_bits": 8},
    {"state_dtype": "uint8", "rounding": "stochastic"},
    {"state_dtype": "uint8", "low_bits": 16, "momentum": 0.9, "centered": True},
]
COMPACT: dict[str, tuple[Any, ...]] = {
    "state_dtype": (None, "bfloat16", "uint8"),
    "rounding": ("nearest", "stochastic"),
}


def stepped(start: list[tuple[Any, ...]], hyper: dict[str, Any]) -> list[list[Array]]:
    """Step parameters with these gradients, kept arrays and learning rates by the reference; return what is written."""
    params = [p.copy() for p, *_ in start]
    state = rf.init(params, lr=[lr for *_, lr in start], **hyper)
    written = [[p, *(values.copy() for values in kept)] for p, (_, _, kept, _) in zip(params, start, strict=True)]
    used: dict[int, str] = {}  # of the kept arrays, those that this state has
    for place, name in enumerate(("variance" if state.centered else "s", "grad_avg", "momentum_buffer"), 1):
        if (arrays := getattr(state, name)) is not None:
            used[place] = name
            pairs = zip(written, arrays, strict=True)
            setattr(state, name, [leaf[place].ravel()[: array.size].reshape(array.shape) for leaf, array in pairs])
    rf.reference.step(params, [g for _, g, *_ in start], state)
    for place, name in used.items():
        for leaf, array in zip(written, getattr(state, name), strict=True):
            leaf[place].flat[: array.size] = array
    return written


def check_driver(build: Path, emulator: list[str], kernels: list[str]) -> None:
    """Run tests/native/driver.cpp, as built there, and compare what it computes with the reference."""
    size, width = 5005, 35
    rows = np.random.default_rng(1).integers(0, size // width, 100)  # some twice
    for configuration in CONFIGURATIONS:
        random = np.random.default_rng(0)
        hyper: dict[str, Any] = {
            "rho": 0.9,
            "eps": 1e-8,
            "momentum": 0,
            "nesterov": False,
            "centered": False,
            "weight_decay": 0,
        }
        compact: dict[str, Any] = {"state_dtype": None, "rounding": "nearest", "low_bits": 0}
        hyper |= {"clip_global_norm": None, "rowwise": False, **compact, **configuration}
        lr_per_element = hyper.pop("lr_per_element", False)
        params, grads, kept, lr = [], [], [], []
        for dtype in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16):
            real = np.float64 if dtype is np.float64 else np.float32
            values = random.standard_normal if hyper["clip_global_norm"] else partial(hard_values, random, dtype=dtype)
            shape = size // width, width
            params.append(hard_values(random, size, dtype).reshape(shape))
            grads.append(values(size).astype(dtype).reshape(shape))
            means = abs(hard_values(random, size, real)).reshape(shape)
            kept.append([means, *random.standard_normal((2, *shape)).astype(real)])
            lr.append(random.uniform(0, 1, shape).astype(real))
        words = {name: values.index(hyper[name]) for name, values in COMPACT.items()}
        numbers = [0.01, lr_per_element, *(NO_LIMIT if value is None else value for value in (hyper | words).values())]
        given = np.array([size, width, len(rows)], np.uint64).tobytes() + rows.tobytes()
        given += np.array(numbers, np.float64).tobytes()
        for p, g, arrays, each_lr in zip(params, grads, kept, lr, strict=True):
            given += b"".join(array.tobytes() for array in (p, g, *arrays, each_lr))
        result = subprocess.run(
            [*emulator, build / "driver"], input=given, capture_output=True, check=False, timeout=600
        )
        assert result.returncode == 0, result.stderr
        assert result.stderr.decode().split("\n")[:-1] == [f"{name} {n}" for name in kernels for n in (1, 2, 3, 7)]

        both_grads = [*grads, *(rf.Rows(rows, g[: len(rows)]) for g in grads)]
        start = list(zip(2 * params, both_grads, 2 * kept, 2 * lr if lr_per_element else 8 * [0.01], strict=True))
        if hyper == hyper | compact:
            expected = stepped(start, hyper)
        else:  # the state of float64 is never compact
            expected, doubles = (
                stepped([*start[:1], *start[2:5], *start[6:]], hyper),
                stepped(start[1::4], hyper | compact),
            )
            expected[1:1], expected[5:5] = doubles[:1], doubles[1:]
        got = result.stdout
        for _ in range(4 * len(kernels)):
            for want in itertools.chain(*expected):
                assert same_bits(np.frombuffer(got[: want.nbytes], want.dtype), want.ravel()), configuration
                got = got[want.nbytes :]
        assert not got


def build_driver(folder: Path, *options: str) -> None:
    run_command("cmake", "-G", "Ninja", "-S", ROOT, "-B", folder, "-DRMSPROP_FAST_NATIVE_DRIVER=ON", *options)
    run_command("cmake", "--build", folder)


@pytest.mark.parametrize(("processor", "kernel"), [("aarch64", "neon"), ("riscv64", "generic")])
def test_other_processors_have_the_same_bits(tmp_path: Path, processor: str, kernel: str) -> None:
    prefix, emulator = f"{processor}-linux-gnu", f"qemu-{processor}"
    if not (shutil.which(f"{prefix}-g++") and shutil.which(emulator)):
        pytest.skip(f"needs a cross compiler and an emulator (Debian's g++-{prefix} and qemu-user)")
    build_driver(
        tmp_path,
        *("-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_SYSTEM_PROCESSOR={processor}", "-DRMSPROP_FAST_WERROR=ON"),
        f"-DCMAKE_CXX_COMPILER={prefix}-g++",
    )
    code = disassembly(f"{prefix}-objdump", objects(tmp_path)[f"kernel_{kernel}/kernel.cpp"])
    assert re.search(r"\bfsqrt", code)
    if kernel in PACKED:
        check_vectorised(kernel, code)
    else:
        require_no_contraction(code)
    check_driver(tmp_path, [emulator, "-L", f"/usr/{prefix}"], [kernel])


@pytest.mark.skipif(not shutil.which("clang++"), reason="needs clang++")
def test_clang_has_the_same_bits(tmp_path: Path) -> None:
    build_driver(tmp_path, "-DCMAKE_CXX_COMPILER=clang++", "-DRMSPROP_FAST_WERROR=ON")
    check_driver(tmp_path, [], rf.kernels())


@pytest.mark.core
def test_forcing_a_kernel() -> None:
    for kernel in rf.kernels():
        rf.set_kernel(kernel)
        assert rf.get_kernel() == rf.info()["kernel"] == kernel


@x86_64
def test_forcing_a_kernel_by_the_environment() -> None:
    show = "import rmsprop_fast; print(rmsprop_fast.get_kernel())"
    for kernel in rf.kernels():
        assert interpreter_under("", "-c", show, RMSPROP_FAST_KERNEL=kernel).stdout.strip() == kernel
    assert interpreter_under("", "-c", show, RMSPROP_FAST_KERNEL="").stdout.strip() == rf.kernels()[0]  # as if unset
    unknown = interpreter_under("", "-c", show, RMSPROP_FAST_KERNEL="sse9")
    assert unknown.returncode != 0
    choices = " ".join(f"'{kernel}'" for kernel in rf.kernels())
    assert f"ImportError: environment variable RMSPROP_FAST_KERNEL: kernel: expected one of {choices}, got 'sse9'" in (
        unknown.stderr
    )
