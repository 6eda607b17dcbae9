"""The parts of a visit to a GPU, each run by gpu.py in a process of its own.

machine          what computes: card, driver, versions, the compiled core
tests            `pytest -m gpu`
classic          nanoGPT's recipe, shakespeare-char-classic: losses at 250 and 5,000, and the best
time_to_loss     shakespeare-char: seconds of the loop to a loss of 1.4697, and of compiling
throughput       GPT-2 124M, T = 1024: tokens/s, MFU, peak of memory, compiled and not
sampling         GPT-2 124M at 1 and 64 texts; the tiny models on the GPU and on the CPU
plan             `plan` and `batch_size=auto` beside what then happens
techniques       what each is worth: the same run, text or layers with it and without
peer_classic, peer_throughput, peer_sampling     nanoGPT's own, likewise

A result is a line of JSON behind RESULT, printed as soon as it is known.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TARGET = 1.4697  # nanoGPT's best loss, by its README
# train and validation, by a log of its recipe
SEED_LOSSES = {250: (1.97, 2.06), 5000: (0.62, 1.71)}
DROP = 10  # iterations before those that are timed
GPT2 = ["--n_layer=12", "--n_head=12", "--n_embd=768", "--block_size=1024", "--batch_size=12",
        "--gradient_accumulation_steps=1", "--dropout=0.0", "--bias=False"]  # fmt: skip
SMALL = ["--n_layer=2", "--n_head=2", "--n_embd=64", "--block_size=64", "--batch_size=4",
         "--gradient_accumulation_steps=1", "--dropout=0.0", "--bias=False"]  # fmt: skip
NO_EVAL = ["--eval_interval=1000000", "--eval_iters=1"]
TINY_MODELS = {"0.2M": (4, 2, 64, 64), "0.8M": (4, 4, 128, 128), "10.7M": (6, 6, 384, 256)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--peer", type=Path)
    args = parser.parse_args()
    with contextlib.suppress(OSError, AttributeError):
        # PR_SET_PDEATHSIG: a part that outlives its visit would slow the next
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    PARTS[args.part](Visit(args))


def result(**values: Any) -> None:
    """Hand out a result."""
    # commands run with another standard output
    print(f"\nRESULT {json.dumps(values)}", file=sys.__stdout__, flush=True)


class Visit:
    """What the parts share: the device, a folder with the prepared text, commands."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device, self.quick = args.device, args.quick
        self.peer: Path = args.peer.resolve() if args.peer else Path()
        self.text: Path | None = args.text.resolve() if args.text else None
        self.folder: Path = args.work / args.part
        self.folder.mkdir()
        os.chdir(self.folder)

    @property
    def gpu(self) -> bool:
        return self.device != "cpu"

    def prepare(self) -> None:
        """Prepare the text as data/tinyshakespeare; in small any text will do."""
        if self.text is None:
            words = "to be or not to be that is the question whether tis nobler in the mind\n"
            self.text = self.folder / "text.txt"
            self.text.write_text(words * 600, encoding="utf-8")
        self.bardlet("prepare", "tinyshakespeare", f"--file={self.text}")

    def bardlet(self, *words: str) -> str:
        """Run a command of bardlet here; what it printed on standard output."""
        from bardlet import cli

        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = cli.main(list(words))
        if code:
            raise SystemExit(f"bardlet {' '.join(words)}: exit code {code}\n{out.getvalue()}")
        return out.getvalue()

    def train(self, preset: str, out: str, *options: str) -> list[dict[str, Any]]:
        """Train, and return the lines of metrics.jsonl."""
        self.bardlet("train", preset, f"--out_dir={out}", f"--device={self.device}", *options)
        lines = Path(out, "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def peak(self) -> int | None:
        """The most bytes of the GPU that this process has held since `forget_peak`."""
        import torch

        return torch.cuda.max_memory_allocated() if self.gpu else None

    def forget_peak(self) -> None:
        import gc

        import torch

        gc.collect()
        if self.gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def synchronize(self) -> None:
        import torch

        if self.gpu:
            torch.cuda.synchronize()


def of(lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["type"] == kind]


def median_ms(times: list[float]) -> float:
    """The median of an iteration's milliseconds, the first few left out."""
    return statistics.median(times[min(DROP, len(times) - 1) :])


# --- ours


def machine(visit: Visit) -> None:
    import torch

    from bardlet import native
    from bardlet.system import device

    chosen = device.choose(visit.device)
    facts: dict[str, Any] = {**device.versions(), "device": chosen.describe(),
                             "cuda": torch.version.cuda, "cores": os.cpu_count(),
                             "peak_flops": chosen.peak_flops()}  # fmt: skip
    facts["compiler"] = shutil.which("cc") or shutil.which("gcc")  # which Triton needs
    with contextlib.suppress(Exception):
        facts["core"] = native.library() is not None
    with contextlib.suppress(OSError):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit",
                 "--format=csv,noheader"]  # fmt: skip
        facts["nvidia_smi"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    result(**facts)


def tests(visit: Visit) -> None:
    """The tests that are marked gpu, those that compile or train for long last; all are skipped
    where there is no GPU.

    Each is handed out as it ends, for time may be up before the last.
    """
    root = Path(__file__).resolve().parents[1]
    names = ("gpu/test_precision", "gpu/test_graphs", "gpu/test_decoding", "gpu/test_gpu",
             "gpu/test_compiling", "test_ways")  # fmt: skip
    files = [f"tests/{name}.py" for name in names]
    command = [sys.executable, "-m", "pytest", *files, "-m", "gpu", "-vv", "-n0", "-rfE",
               "-p", "no:cacheprovider"]  # fmt: skip
    counts: Counter[str] = Counter()
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as ran:
        assert ran.stdout is not None
        lines = []
        for line in ran.stdout:
            lines.append(line.rstrip())
            if match := re.match(r"tests/(.+?) (PASSED|FAILED|SKIPPED|ERROR)", line):
                counts[match[2].lower()] += 1
                result(test=match[1], outcome=match[2].lower())
    bad = ran.returncode not in (0, 5)
    result(exit_code=ran.returncode, **counts, tail=lines[-40:] if bad else [])
    if bad:
        raise SystemExit(f"pytest: exit code {ran.returncode}")


@contextlib.contextmanager
def evaluations_reported(metrics: Path) -> Iterator[None]:
    """Hand out each evaluation of a run while it trains: it may be cut short."""
    done = threading.Event()

    def tail() -> None:
        seen = 0
        while True:
            ended = done.wait(0.5)
            lines = metrics.read_text("utf-8").splitlines() if metrics.is_file() else []
            for line in lines[seen : None if ended else -1]:  # the last may be half written
                entry = json.loads(line)
                if entry["type"] == "eval":
                    values = {key: entry[key] for key in ("iter", "train_loss", "val_loss")}
                    result(**values, seed=SEED_LOSSES.get(entry["iter"]))
            seen = len(lines) if ended else max(seen, len(lines) - 1)
            if ended:
                return

    thread = threading.Thread(target=tail, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def classic(visit: Visit) -> None:
    visit.prepare()
    options = ["--max_iters=20", "--eval_interval=10", *SMALL[:5]] if visit.quick else []
    began = time.perf_counter()
    with evaluations_reported(Path("out/classic/metrics.jsonl")):
        lines = visit.train("shakespeare-char-classic", "out/classic", *options)
    took = time.perf_counter() - began
    best = min(of(lines, "eval"), key=lambda line: line["val_loss"])
    times = [line["time_ms"] for line in of(lines, "iter") if line.get("time_ms")]
    result(best_val_loss=best["val_loss"], at=best["iter"], seed_best=TARGET, total_s=took,
           ms_per_iteration=median_ms(times))  # fmt: skip


@contextlib.contextmanager
def compiling_timed() -> Iterator[list[float]]:
    """The seconds of each way that torch compiles in, which come before the first iteration."""
    from bardlet.system import device

    plain, seconds = device.try_compile, []

    def timed(*args: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return plain(*args, **options)
        finally:
            seconds.append(time.perf_counter() - began)

    device.try_compile = timed
    try:
        yield seconds
    finally:
        device.try_compile = plain


def time_to_loss(visit: Visit) -> None:
    """Seconds of the loop up to the first whole evaluation at or below the target."""
    visit.prepare()
    small = ["--max_iters=20", "--eval_interval=10", "--n_layer=2"] if visit.quick else []
    for name, options in (("as it chooses", []), ("compiled", ["--compile=True"])):
        if visit.quick and options:
            continue  # compiling takes a CPU too long
        usual = ["--log_interval=1", "--eval_interval=25", "--eval_full=True"]
        began = time.perf_counter()
        out = f"out/{name.replace(' ', '-')}"
        with compiling_timed() as compiling:
            lines = visit.train("shakespeare-char", out, *usual, *small, *options)
        took = time.perf_counter() - began
        times = [line["time_ms"] for line in of(lines, "iter")]
        evals = of(lines, "eval")
        met = next((line["iter"] for line in evals if line["val_loss"] <= TARGET), None)
        usual_ms = median_ms(times)
        result(
            name=name, target=TARGET, reached_at=met,
            loop_s=None if met is None else sum(times[:met]) / 1000, compile_s=sum(compiling),
            first_iterations_ms=times[:6], ms_per_iteration=usual_ms, total_s=took,
            best_val_loss=min(line["val_loss"] for line in evals),
        )  # fmt: skip


def throughput(visit: Visit) -> None:
    visit.prepare()
    shape = SMALL if visit.quick else GPT2
    vocabulary = "--vocab_size=128" if visit.quick else "--vocab_size=50304"
    count = 14 if visit.quick else 40
    ways = {"eager": "False"} if visit.quick else {"compiled": "True", "eager": "False"}
    for name, compiled in ways.items():
        visit.forget_peak()
        with compiling_timed() as compiling:
            lines = visit.train(
                "shakespeare-char-classic", f"out/{name}", *shape, vocabulary, *NO_EVAL,
                "--eval_full=False", f"--max_iters={count}", "--log_interval=1",
                "--learning_rate=6e-4", f"--compile={compiled}", "--eval_on_start=False",
            )  # fmt: skip
        iters = of(lines, "iter")[DROP:]
        result(
            name=name, tokens_per_s=statistics.median(line["tokens_per_s"] for line in iters),
            mfu=statistics.median(line["mfu"] or 0.0 for line in iters),
            ms_per_iteration=statistics.median(line["time_ms"] for line in iters),
            compile_s=sum(compiling), peak_bytes=visit.peak(),
        )  # fmt: skip


@contextlib.contextmanager
def without(technique: str) -> Iterator[None]:
    """Leave a technique of bardlet/gpu, or of its loop, out."""
    from bardlet.gpu import graphs, loss
    from bardlet.sampling.torch_decoder import TorchDecoder
    from bardlet.training.setup import Training

    left_out: dict[str, tuple[Any, str, Any]] = {
        "late": (Training, "late", False),
        "chunks": (loss, "pays", lambda *_: False),
        "graphs": (graphs, "WARM_UP", 10**9),
        "capture": (TorchDecoder, "next", lambda self, idx, cache: self.model(idx, cache=cache)[0]),
    }
    if not technique:
        yield
        return
    owner, name, value = left_out[technique]
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def techniques(visit: Visit) -> None:
    """Each on and off in one process, the cheap ones first; compiling comes last."""
    visit.prepare()
    vocab_size, count = (128, 12) if visit.quick else (50304, 30)
    shape = (2, 2, 32, 64) if visit.quick else (12, 12, 768, 1024)
    big = [*(SMALL if visit.quick else GPT2), f"--vocab_size={vocab_size}"]
    small = ["--n_layer=2"] if visit.quick else []
    cases = [  # and whether to compile, which takes a CPU too long
        ("graphs", False, "shakespeare-char", small),
        # whose iterations are not recorded
        ("late", False, "shakespeare-char", [*small, "--gradient_accumulation_steps=2"]),
        ("chunks", False, "shakespeare-char-classic", big),
        ("graphs", True, "shakespeare-char", small),
        ("chunks", True, "shakespeare-char-classic", big),
    ]  # fmt: skip
    for left_out in ("", "capture"):
        with without(left_out):
            speed = written(shape, vocab_size, visit.device, 1, count)
        result(technique="capture", on=not left_out, texts=1, **speed)
    document_attention(visit)
    for number, (technique, compiled, preset, options) in enumerate(cases):
        for left_out in ("", technique) if not (visit.quick and compiled) else ():
            visit.forget_peak()
            with without(left_out):
                lines = visit.train(
                    preset, f"out/{number}{left_out}", *options, *NO_EVAL, "--eval_full=False",
                    "--log_interval=1", f"--max_iters={count}", "--eval_on_start=False",
                    f"--compile={compiled}",
                )  # fmt: skip
            times = [line["time_ms"] for line in of(lines, "iter")]
            result(technique=technique, on=not left_out, run=preset, compiled=compiled,
                   ms_per_iteration=median_ms(times), first_iteration_s=times[0] / 1000,
                   peak_bytes=visit.peak())  # fmt: skip


def document_attention(visit: Visit) -> None:
    """Milliseconds of a layer's attention within documents, forward and back, by each kernel.

    On a CPU, which compiles none of them, forward alone.
    """
    import torch
    from torch import Tensor

    from bardlet.gpu import attention
    from bardlet.model import attend
    from bardlet.system import device

    B, H, T, D = (1, 2, 256, 16) if visit.quick else (12, 12, 1024, 64)
    layers, count = (1, 2) if visit.quick else (4, 20)
    machine = device.choose(visit.device)
    shapes = [(B, H, T, D)] * 4
    inputs = [torch.randn(s, device=machine.device, dtype=machine.dtype) for s in shapes]
    at = torch.arange(T, device=machine.device)
    first = (at // (T // 4) * (T // 4)).expand(B, T).contiguous()  # four documents in each
    kernels = attention.kernels(machine.device, machine.dtype, D) or [attention.FLEX]
    for kernel in (None, *kernels):

        def compute(q: Tensor, k: Tensor, v: Tensor, kernel: Any = kernel) -> Tensor:
            if kernel is None:
                dense = ((at >= first.unsqueeze(2)) & (at <= at.unsqueeze(1))).unsqueeze(1)
                for _ in range(layers):
                    q = attend(q, k, v, 0.0, dense)
                return q
            within = attention.within_documents(first, kernel)
            for _ in range(layers):
                q = within(q, k, v)
            return q

        name = kernel.name if kernel else "dense mask"
        try:
            way: Any = compute
            if visit.gpu:
                torch.compiler.reset()
                way = torch.compile(compute, dynamic=False, fullgraph=True)
            took = seconds_of(visit, way, inputs, count)
        except Exception as error:  # one that is not there does not end the part
            result(technique="documents", by=name, failed=str(error)[:300])
            continue
        result(technique="documents", by=name, layer_ms=1000 * took / layers)


def seconds_of(visit: Visit, way: Callable[..., Any], inputs: list[Any], count: int) -> float:
    """Seconds of a pass forward and back, the mean of `count` behind three that warm up."""
    import torch

    *given, slope = inputs
    began = 0.0
    for number in range(3 + count):
        if number == 3:
            visit.synchronize()
            began = time.perf_counter()
        with torch.set_grad_enabled(visit.gpu):
            y = way(*(x.requires_grad_(visit.gpu) for x in given))
        if visit.gpu:
            torch.autograd.grad(y, given, slope)
    visit.synchronize()
    return (time.perf_counter() - began) / count


def sampling(visit: Visit) -> None:
    """Tokens per second by the writer that `sample` and the server have."""
    big = ("tiny", (2, 2, 32, 64), 128) if visit.quick else ("124M", (12, 12, 768, 1024), 50304)
    cases: list[tuple[str, tuple[int, ...], int, str, list[int]]] = [
        (big[0], big[1], big[2], visit.device, [1, 64])
    ]
    for name, shape in list(TINY_MODELS.items())[: 1 if visit.quick else None]:
        for device in dict.fromkeys((visit.device, "cpu")):
            cases.append((name, shape, 65, device, [1, 64]))
    for name, shape, vocab_size, device, texts in cases:
        for streams in texts:
            speed = written(shape, vocab_size, device, streams, 16 if visit.quick else 128)
            result(model=name, device=device, texts=streams, **speed)


def written(
    shape: tuple[int, ...], vocab_size: int, device: str, streams: int, tokens: int
) -> dict[str, Any]:
    """Tokens per second of so many texts of an untrained model, after a few that warm up."""
    import torch

    from bardlet import native
    from bardlet.model import GPT, GPTConfig
    from bardlet.sample import Writer
    from bardlet.sampling.filters import Sampling
    from bardlet.system.device import choose

    layers, heads, width, context = shape
    torch.manual_seed(0)
    config = GPTConfig(n_layer=layers, n_head=heads, n_embd=width, block_size=context,
                       vocab_size=vocab_size)  # fmt: skip
    chosen = choose(device)
    model = GPT(config).eval().to(chosen.device)
    if not native.runs(model):
        model.to(chosen.dtype)
    writer = Writer(model, streams, chosen.dtype)
    total = tokens + 8
    sampling = Sampling(temperature=0.8, top_k=min(200, vocab_size))
    texts = [writer.add(torch.zeros(1, dtype=torch.int64), sampling, total, 1337, i)
             for i in range(streams)]  # fmt: skip
    while texts[0].length <= 8:
        writer.step(texts)
    left, began = texts[0].left, time.perf_counter()
    while texts[0].left:
        writer.step(texts)  # hands its tokens to the CPU, which waits for them
    seconds = time.perf_counter() - began
    dtype = str(chosen.dtype).removeprefix("torch.")
    return {"tokens_per_s": streams * left / seconds, "core": native.runs(model), "dtype": dtype}


def plan(visit: Visit) -> None:
    """What `plan` says of a run, over what the run then takes."""
    visit.prepare()
    cases = {
        "shakespeare-char": [], "shakespeare-char-classic": ["--max_iters=1000"],
        "shakespeare-char, batch_size=auto": ["--batch_size=auto", "--max_iters=300"],
    }  # fmt: skip
    if visit.quick:
        tiny = ["--n_layer=1", "--n_head=2", "--n_embd=32", "--block_size=32", "--max_iters=20"]
        cases = {"demo": tiny}  # trying batch sizes takes a minute
    for name, options in cases.items():
        preset = name.partition(",")[0]
        out = f"out/{re.sub('[^a-z]+', '-', name)}"
        flags = [*options, f"--device={visit.device}", f"--out_dir={out}"]
        seconds = ["--seconds=0.5"] if visit.quick else []
        said = json.loads(visit.bardlet("plan", preset, *flags, *seconds, "--json"))
        # the run takes the sizes that the plan has chosen, and does not try them once more
        sizes = [f"--{key}={said[key]}" for key in ("batch_size", "gradient_accumulation_steps")]
        kept = [flag for flag in flags if not flag.startswith("--batch_size")]
        command = [sys.executable, "-c", PEAK, "train", preset, *kept, *sizes]
        began = time.perf_counter()
        ran = subprocess.run(command, capture_output=True, text=True)
        took = time.perf_counter() - began
        if ran.returncode:
            raise SystemExit(f"{name}: {ran.stderr[-2000:]}")
        peak = int(re.findall(r"^PEAK (\d+)$", ran.stdout, re.MULTILINE)[-1])
        planned_s, planned_bytes = said["time"]["total_s"], said["memory"]["total"]
        ratios = planned_s / took, planned_bytes / peak if visit.gpu else None
        result(
            case=name, planned_s=planned_s, actual_s=took, time_ratio=ratios[0],
            planned_bytes=planned_bytes, actual_bytes=peak if visit.gpu else None,
            memory_ratio=ratios[1], batch_size=said["batch_size"],
            within=all(abs(r - 1) <= 0.2 for r in ratios if r is not None),
        )  # fmt: skip


# a command of bardlet, and then the most bytes of the GPU that it has reserved
PEAK = """
import sys, torch
from bardlet.cli import main
code = main(sys.argv[1:])
print("PEAK", torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0)
sys.exit(code)
"""


# --- nanoGPT's


# runs the peer's train.py as it is, and then says the most bytes of the GPU that it has held. Of
# what it would save, the checkpoints after some iterations and the best one are kept
PEER_TRAIN = """
import runpy, sys, torch
peer, kept = sys.argv[1], sys.argv[2].split(",")
save, best = torch.save, float("inf")

def keep(state, path):
    global best
    loss = float(state["best_val_loss"])
    names = [str(state["iter_num"])] * (str(state["iter_num"]) in kept) + ["best"] * (loss < best)
    best = min(best, loss)
    for name in names:
        save(state, path.replace("ckpt.pt", "ckpt-" + name + ".pt"))

torch.save = keep
sys.path.insert(0, peer)
sys.argv = [peer + "/train.py", peer + "/config/train_shakespeare_char.py", *sys.argv[3:]]
runpy.run_path(sys.argv[0], run_name="__main__")
print("PEAK", torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)
"""


def peer_train(
    visit: Visit, meta: bool, *options: str, heard: Callable[[str], None] = lambda line: None,
    kept: tuple[int, ...] = (),
) -> tuple[list[tuple[float, str]], float]:  # fmt: skip
    """The lines of the peer's own training on our tokens, each with the seconds since its launch,
    and its seconds to the exit.

    Without `meta` it takes GPT-2's vocabulary, as for its own benchmark. `heard` gets each line.
    Checkpoints after `kept` iterations, and the best one, are out-peer/ckpt-*.pt.
    """
    sys.path.insert(0, str(Path(__file__).parent))
    import common

    from bardlet.data.dataset.folder import Dataset

    visit.prepare()
    common.for_nanogpt(Dataset(Path("data/tinyshakespeare")), visit.folder, visit.peer)
    if not meta:
        Path("data/shakespeare_char/meta.pkl").unlink()
    compiled = f"--compile={visit.gpu}"
    words = [f"--device={visit.device}", compiled, "--out_dir=out-peer"]
    names = ",".join(map(str, kept))
    command = [sys.executable, "-c", PEER_TRAIN, str(visit.peer), names, *words, *options]
    Path("out-peer").mkdir()
    began, lines = time.perf_counter(), []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace") as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            lines.append((time.perf_counter() - began, line.rstrip()))
            heard(lines[-1][1])
    if process.returncode:
        raise SystemExit("\n".join(line for _, line in lines[-30:]))
    return lines, time.perf_counter() - began


def peer_times(lines: list[tuple[float, str]]) -> list[float]:
    """The milliseconds of an iteration, between each two that it logs one after the other.

    What it says itself is of the iterations that it logs, and those wait for all before them.
    """
    times, before = [], None
    for seconds, line in lines:
        if match := re.match(r"iter (\d+): loss ", line):
            now = int(match[1]), seconds
            if before:
                times.append(1000 * (now[1] - before[1]) / (now[0] - before[0]))
            before = now
        elif line.startswith("step "):  # an evaluation lies between
            before = None
    return times


def peer_classic(visit: Visit) -> None:
    """Its own estimates as they come, and then what it has saved at 250 and 5,000 iterations and as
    its best, scored as our own runs are.
    """
    small = ["--max_iters=20", "--eval_interval=10", "--eval_iters=2", "--log_interval=1",
             *SMALL[:5]]  # fmt: skip
    losses: dict[int, tuple[float, float]] = {}

    def heard(line: str) -> None:
        if match := re.match(r"step (\d+): train loss ([\d.]+), val loss ([\d.]+)", line):
            it, train, val = int(match[1]), float(match[2]), float(match[3])
            losses[it] = (train, val)
            result(iter=it, train_loss=train, val_loss=val, estimated=True)

    kept = (10, 20) if visit.quick else tuple(SEED_LOSSES)
    usual = ["--always_save_checkpoint=True", *(small if visit.quick else [])]
    lines, took = peer_train(visit, True, *usual, heard=heard, kept=kept)
    ms = median_ms(peer_times(lines))
    met = next((it for it, loss in sorted(losses.items()) if loss[1] <= TARGET), None)
    result(
        best_val_loss=min(loss[1] for loss in losses.values()), total_s=took, ms_per_iteration=ms,
        reached_at=met, loop_s=None if met is None else met * ms / 1000,
    )  # fmt: skip
    import common

    from bardlet.config import TrainConfig
    from bardlet.data.dataset.folder import Dataset
    from bardlet.system import device
    from bardlet.system.distributed import Group
    from bardlet.training.scoring import both_losses

    machine = device.choose(visit.device)
    dataset = Dataset(Path("data/tinyshakespeare"))
    config = TrainConfig(batch_size=4 if visit.quick else 64, eval_iters=2 if visit.quick else 200)
    for name in (*kept, "best"):
        model = common.peer_model(Path("out-peer"), f"ckpt-{name}.pt").to(machine.device)
        scores = both_losses(config, model, dataset, machine, Group(), stop=lambda: False)
        result(scored=name, train_loss=scores.train_loss, val_loss=scores.val_loss,
               seed=SEED_LOSSES.get(name) if isinstance(name, int) else TARGET)  # fmt: skip


def peer_throughput(visit: Visit) -> None:
    shape, count = (SMALL, 14) if visit.quick else (GPT2, 40)
    options = [*shape, *NO_EVAL, f"--max_iters={count}", "--learning_rate=6e-4",
               "--log_interval=1"]  # fmt: skip
    lines, _ = peer_train(visit, False, *options)
    ms = median_ms(peer_times(lines))
    pairs = [word.removeprefix("--").split("=") for word in shape]
    sizes = {name: int(value) for name, value in pairs if value.isdecimal()}
    peak = [int(line.split()[1]) for _, line in lines if line.startswith("PEAK ")]
    result(name="nanoGPT, compiled" if visit.gpu else "nanoGPT", ms_per_iteration=ms,
           tokens_per_s=sizes["batch_size"] * sizes["block_size"] * 1000 / ms,
           peak_bytes=peak[-1] if visit.gpu else None)  # fmt: skip


def peer_sampling(visit: Visit) -> None:
    """The peer's own generate, as its sample.py runs it: bfloat16 where the device has it."""
    sys.path.insert(0, str(visit.peer))
    import torch
    from model import GPT, GPTConfig  # pyright: ignore[reportMissingImports]

    layers, heads, width, context = (2, 2, 32, 64) if visit.quick else (12, 12, 768, 1024)
    vocab_size, tokens = (128, 8) if visit.quick else (50304, 128)
    torch.manual_seed(0)
    config = {"n_layer": layers, "n_head": heads, "n_embd": width, "block_size": context,
              "vocab_size": vocab_size, "bias": False, "dropout": 0.0}  # fmt: skip
    model = GPT(GPTConfig(**config)).eval().to(visit.device)
    dtype = torch.bfloat16 if visit.gpu else torch.float32
    scope = torch.autocast("cuda", dtype) if visit.gpu else contextlib.nullcontext()
    for texts in (1, 64):
        idx = torch.zeros(texts, 1, dtype=torch.int64, device=visit.device)
        with torch.no_grad(), scope:
            model.generate(idx, 4, temperature=0.8, top_k=min(200, vocab_size))
            visit.synchronize()
            began = time.perf_counter()
            model.generate(idx, tokens, temperature=0.8, top_k=min(200, vocab_size))
            visit.synchronize()
        result(model="124M", texts=texts,
               tokens_per_s=texts * tokens / (time.perf_counter() - began))  # fmt: skip


PARTS: dict[str, Callable[[Visit], None]] = {
    "machine": machine, "tests": tests, "classic": classic, "time_to_loss": time_to_loss,
    "throughput": throughput, "sampling": sampling, "plan": plan, "techniques": techniques,
    "peer_classic": peer_classic, "peer_throughput": peer_throughput,
    "peer_sampling": peer_sampling,
}  # fmt: skip

if __name__ == "__main__":
    main()
