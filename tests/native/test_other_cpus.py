"""The core's builds for Arm, cross-compiled and run under qemu, against AVX2's on equal numbers.

core_driver.cpp makes them and calls the core; what AVX2 computes, test_native.py holds to torch.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_support import FOLDER, hatch_build

from bardlet import native

DRIVER = Path(__file__).with_name("core_driver.cpp")
COMPILERS = {
    "gcc": ["aarch64-linux-gnu-g++"],
    "clang": ["clang++", "--target=aarch64-linux-gnu"],  # as on a Mac, with Linux's libraries
}
# what each program runs on: the oldest CPU of 64 bits, without bfloat16, and all that qemu knows
CPUS = {"neon": "cortex-a53", "neonbf16": "max"}
Records = dict[str, np.ndarray[Any, Any]]
# relative errors by the norm: sums of a register are in another order, and may round an activation
# to another integer
TOLERANCE = {"float32": 5e-6, "bfloat16": 3e-2}
INTEGERS_TOLERANCE = 3e-4
# integers, floats that are exact by their definition, and sums that are in one order everywhere
EXACT = (
    "vector round", "vector sqrt", "vector max", "vector min", "vector abs", "vector sign",
    "vector scaled",
    "vector of NaN", "vector nearest", "vector half bits", "vector halves", "float32 products",
    "8 bits", "4 bits",
)  # fmt: skip


def flags(build: str) -> list[str]:
    """The compiler's, as pip has them for a build, but for those of libraries."""
    hatch = hatch_build()
    of_all = [flag for flag in hatch.FLAGS if flag not in ("-shared", "-fPIC")]
    return of_all + hatch.BUILDS[f"native/src/core-{build}.so"][2]


def program(compiler: list[str], build: str, folder: Path) -> str:
    """The driver for a build, with all libraries in it."""
    out = folder / f"driver-{build}"
    subprocess.run(
        [*compiler, *flags(build), "-static", '-DBARDLET_SOURCE="a test"', f"-I{FOLDER}",
         str(DRIVER), "-o", str(out)], check=True,
    )  # fmt: skip
    return str(out)


def records(command: list[str]) -> Records:
    """What the driver writes."""
    data = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    result, at = {}, 0
    while at < len(data):
        end = data.index(b"\n", at)
        name, kind, count = data[at:end].decode().rsplit(" ", 2)
        at = end + 1 + 4 * int(count)
        result[name] = np.frombuffer(data[end + 1 : at], np.float32 if kind == "f" else np.int32)
    return result


def missing(capsys: pytest.CaptureFixture[str], what: str) -> None:
    with capsys.disabled():
        print(f"\nTHE CORE FOR ARM IS NOT TESTED: {what}", file=sys.stderr)
    pytest.skip(what)


@pytest.fixture(scope="module")
def avx2(tmp_path_factory: pytest.TempPathFactory) -> Records:
    return records([program(["c++"], "avx2", tmp_path_factory.mktemp("avx2"))])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("build", CPUS)
def test_arm_computes_what_avx2_does(
    build: str, compiler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if not qemu:
        missing(capsys, "qemu-aarch64 is not installed (Debian: qemu-user-static)")
    if not shutil.which(COMPILERS[compiler][0]) or not shutil.which("aarch64-linux-gnu-g++"):
        missing(capsys, f"no {compiler} for Arm is installed (Debian: g++-aarch64-linux-gnu clang)")
    if not native.library() or not (FOLDER / "core-avx2.so").exists():
        missing(capsys, "there is no AVX2 here to compare it with")
    expected: Records = request.getfixturevalue("avx2")
    arm = program(COMPILERS[compiler], build, tmp_path)
    got = records([str(qemu), "-cpu", CPUS[build], arm])
    assert ("bfloat16 products rows" in got) == (build == "neonbf16")
    assert set(expected) <= set(got)
    for name, values in got.items():
        base, _, how = name.rpartition("=")
        if how in ("alone", "again"):  # a text beside others and alone; the same call twice
            assert values.tobytes() == got[base].tobytes(), name
        reference = expected[name.replace("bfloat16", "float32", 1)]
        assert values.shape == reference.shape, name
        if name.startswith(EXACT):
            same_nan = values.dtype == np.float32
            assert np.array_equal(values, reference, equal_nan=same_nan), name
        elif values.dtype == np.int32:  # texts; in bfloat16 another token may be the likeliest
            assert name.startswith("bfloat16") or np.array_equal(values, reference), name
        else:
            tolerance = TOLERANCE.get(name.split()[0], 1e-6)
            if " bits" in name:
                tolerance = max(tolerance, INTEGERS_TOLERANCE)
            assert np.isfinite(values).all() and values.any(), name
            # in float64: the square of exp's largest does not fit float32
            wide, right = values.astype(np.float64), reference.astype(np.float64)
            error = np.linalg.norm(wide - right) / np.linalg.norm(right)
            assert error <= tolerance, (name, error)
