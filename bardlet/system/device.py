"""The machine a process runs on: its device, number format, process settings and peak speed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import shutil
import sys
import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch

import bardlet
from bardlet.errors import UsageError, is_out_of_memory

# Dense FLOP/s of matrix products in 16 bits and in float32, from the makers' data sheets; TF32 has
# half of those in 16 bits wherever there is TF32. Variants of other speeds have rows of their own.
PEAK_FLOPS = {
    "B200": (2250e12, 75e12), "H200": (989e12, 67e12), "H100": (989e12, 67e12),
    "H100 NVL": (835e12, 60e12), "H100 PCIE": (756e12, 51e12), "A100": (312e12, 19.5e12),
    "L40S": (362e12, 91.6e12), "L40": (181e12, 90.5e12), "L4": (121e12, 30.3e12),
    "A10G": (70e12, 35e12), "A10": (125e12, 31.2e12), "A40": (150e12, 37.4e12),
    "RTX 4090": (165e12, 82.6e12), "RTX 3090": (71e12, 35.6e12),
    "V100": (125e12, 15.7e12), "V100 PCIE": (112e12, 14e12), "T4": (65e12, 8.1e12),
}  # fmt: skip
# words of a GPU's name that do not say how fast it is
NO_SPEED = re.compile(r"NVIDIA|TESLA|GEFORCE|SXM\d*|HBM\d\w*|\d+GB")
TF32_CAPABILITY = (8, 0)  # Ampere

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A device, the number format of activations on it, and why these two."""

    device: torch.device
    dtype: torch.dtype
    why: str
    tf32: bool = False  # whether products in float32 are rounded to TF32

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """A context in which matrix products run in `dtype`; weights stay float32."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def facts(self) -> dict[str, str | int]:
        """What of it decides how results are rounded."""
        facts: dict[str, str | int] = {
            "device": self.device.type,
            "dtype": str(self.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
        }
        return {**facts, "tf32": self.tf32} if self.device.type == "cuda" else facts

    def describe(self) -> str:
        """One line: the device, the number format, and why."""
        return f"device {self.device}, {str(self.dtype).removeprefix('torch.')} ({self.why})"

    def peak_flops(self) -> float:
        """Matrix FLOP/s this device can reach in `dtype`: from the table, else measured."""
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
            peak = known_peak(name, self.dtype, self.tf32)
            if peak is not None:
                return peak
        return measure_flops(self.device, self.dtype)


def known_peak(name: str, dtype: torch.dtype, tf32: bool) -> float | None:
    """Matrix FLOP/s of the GPU of this name; None of one that is not in the table.

    The whole name counts: an L40 is not an L4, and a laptop's RTX 4090 is another chip.
    """
    words = [w for w in re.split("[ -]", name.upper()) if not NO_SPEED.fullmatch(w)]
    without = [w for w in words if w != "PCIE"]  # most are as fast there
    peaks = PEAK_FLOPS.get(" ".join(words)) or PEAK_FLOPS.get(" ".join(without))
    if peaks is None:
        return None
    half, single = peaks
    return half if dtype != torch.float32 else half / 2 if tf32 else single


def choose(
    device: str = "auto", dtype: str = "auto", local_rank: int = 0, tf32: str | bool = "auto"
) -> Machine:
    """The machine to run on; "auto" takes cuda, then mps, then cpu, and bfloat16 where it is fast.

    Sets whether torch multiplies float32 in TF32 on a GPU: "auto" is in bfloat16 runs only.
    Raises UsageError where the device asked for is not there.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise UsageError(f"dtype={dtype} is not known", f"Known are auto, {', '.join(DTYPES)}")
    asked = device != "auto"
    if not asked:
        device = accelerator() or "cpu"
    if device == "cuda":
        device = f"cuda:{local_rank}"
    try:
        chosen = torch.device(device)
        if chosen.type not in ("cpu", "cuda", "mps"):  # meta, for one, computes nothing
            raise RuntimeError(f"{chosen.type} is not one of cpu, cuda, mps")
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(
            f"device={device} cannot be used: {first}", "Try --device=cpu, or leave it to `auto`"
        ) from None
    kind = chosen.type
    if kind == "cuda":
        torch.cuda.set_device(chosen)  # what asks for no device, as memory counters, means this one
        name, fast = torch.cuda.get_device_name(chosen), torch.cuda.is_bf16_supported(False)
        best = torch.bfloat16 if fast else torch.float16
    else:
        name = str(torch.cpu.get_capabilities().get("cpu_name") or platform.machine())
        best = torch.bfloat16 if kind == "cpu" and cpu_multiplies_bfloat16() else torch.float32
    if dtype == "float16" and kind != "cuda":
        raise UsageError(f"dtype=float16 needs a CUDA device, this is {kind}", "Use float32")
    threads = f", {torch.get_num_threads()} threads" if kind == "cpu" else ""
    how = "as asked" if asked else "the best one here"
    resolved = best if dtype == "auto" else DTYPES[dtype]
    has_tf32 = kind == "cuda" and torch.cuda.get_device_capability(chosen) >= TF32_CAPABILITY
    tf32 = has_tf32 and (resolved == torch.bfloat16 if tf32 == "auto" else bool(tf32))
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    return Machine(device=chosen, dtype=resolved, why=f"{name}{threads}; {how}", tf32=tf32)


def accelerator() -> str | None:
    """ "cuda" or "mps" where there is one."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else None


def machine_kind(device: str = "auto") -> str:
    """ "gpu" or "cpu": which table of a preset applies."""
    return "cpu" if device == "cpu" or (device == "auto" and not accelerator()) else "gpu"


def cpu_multiplies_bfloat16() -> bool:
    """Whether torch multiplies bfloat16 by the CPU's instructions, not tens of times slower.

    On macOS it does not, though Arm CPUs may have them; the compiled core then takes them where
    dtype=bfloat16 is asked for.
    """
    has = torch.cpu.get_capabilities()
    arm = sys.platform == "linux" and has.get("bf16")
    return bool(has.get("avx512_bf16") or has.get("amx_bf16") or arm)


def tune_process(deterministic: bool = False) -> None:
    """Settings of the whole process that make training faster and change no result.

    `deterministic` gives that up where a GPU would sum in an order that differs from run to run.
    """
    # read at the first product on a GPU: a later run of this process may be the deterministic one
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if deterministic:
        torch.use_deterministic_algorithms(True)
    torch.set_flush_denormal(True)  # tiny second moments would run on the CPU's slow path
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        # By default glibc maps every large activation anew and returns it at once, so that each
        # operation pays for page faults: a fifth to a third of a step (docs/log.md).
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: nothing through mmap
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD: keep up to 1 GiB of freed memory
        libc.mallopt(-2, 1 << 28)  # M_TOP_PAD: grow by 256 MiB


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's random numbers, on the CPU and on this device."""
    if device.type == "cpu":  # not those of every device that is not here, which takes long
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def measure_flops(device: torch.device, dtype: torch.dtype) -> float:
    """The best FLOP/s of a few square matrix products, in about a tenth of a second on a CPU."""
    size = 1024 if device.type == "cpu" else 4096
    a = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        product = a @ a
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def compile_pays(device_type: str, total_flops: float) -> bool:
    """Whether torch.compile is likely to win back its own time within the run.

    A rule on the run's arithmetic and not on a measurement, so that a resumed run decides alike.
    """
    if device_type == "cuda":
        return total_flops > 60 * 1e14  # about a minute of a large GPU, several of a small one
    if device_type == "cpu":
        # measured: at most a tenth faster, for 15 to 40 s of compiling
        return total_flops > 1800 * 1e11 and shutil.which("c++") is not None
    return False


def try_compile(
    model: torch.nn.Module, idx: torch.Tensor, machine: Machine, first: torch.Tensor | None = None,
    name: str = "compiled", **options: Any,
) -> torch.nn.Module:  # fmt: skip
    """The model compiled with torch.compile's `options`, or the model itself on failure.

    It is tried forward and backward on idx (B, T), and first as GPT.forward has it. `name` is what
    is tried, for people. Raises what says that memory ran out.
    """
    compiled = torch.compile(model, **options)
    try:
        with torch.random.fork_rng([idx.device] if idx.is_cuda else []):
            with machine.autocast():
                # one tensor twice would compile for that only
                _, loss = compiled(idx, idx.clone(), first=first)
            loss.backward()
            loss.item()  # waits for the device: what fails there is to fail here
    except Exception as error:  # whatever a compiler can raise, the run goes on without it
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        said = f"torch.compile failed ({name}), going on without it: {reason}"
        warnings.warn(said, stacklevel=2)
        return model
    finally:
        model.zero_grad(set_to_none=True)
    return compiled  # pyright: ignore[reportReturnType]


def versions() -> dict[str, str]:
    """What computes here, for the record in checkpoints and benchmarks."""
    return {
        "bardlet": bardlet.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
