"""Every benchmark whose figure stands in the README, in one command, and the README's tables.

    python bench/all.py --peer PATH --text FILE --texts FILE... --english FILE... --write
    python bench/all.py --peer PATH --text FILE --only memory first_step --write
    python bench/all.py --peer PATH --text FILE --quick

The benchmarks run one after the other, each in a process of its own under a time limit, and each
runs its sides in turns. Results go to the file of `--json` as they come: the same command again
goes on after the last one that ended well, `--only` measures again what it names. `--texts` and
`--english` are for the tokenizers: 200 MB or more of text in many languages, and in English.

`--write` takes what ended well into bench/results/readme.json and writes the figures of README.md
and README.zh.md from it; without a benchmark to run, `--only` with no name does just that.
`--quick` runs every benchmark on a tiny case, several at a time, to see that all of them work: its
figures mean nothing and are never written to the README.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# no numpy and no torch here: the peak memory of a process starts at that of its parent
import readme
from gpu import write

HERE = Path(__file__).resolve().parent
QUICK_MINUTES = 5.0  # that any benchmark may take on its tiny case
OTHERS = "transformers", "gguf", "xllamacpp"
ONE_STAGE = "--stages=1"


@dataclass(frozen=True)
class Benchmark:
    """A command, in which words of `PLACES` stand for paths, and the minutes that it may take."""

    command: str
    minutes: float
    needs: tuple[str, ...] = ()  # packages
    small: tuple[str, ...] = ()  # with `SMALL`, what makes it small


BENCHMARKS = {
    "counting": Benchmark("ngram --text FILE", 5),
    "loss_1.88": Benchmark("time_to_loss --peer PEER --text FILE --target 1.88", 25),
    "loss_1.47": Benchmark(
        "time_to_loss --peer PEER --text FILE --target 1.47 --peer_iters 3", 60
    ),
    "demo": Benchmark("best_loss --text FILE --preset demo", 15),
    "best": Benchmark(
        "best_loss --text FILE --preset shakespeare-char-best --repeats 1 "
        f"--ours_args='{ONE_STAGE}'", 120,
    ),
    "classic_cpu": Benchmark(
        "best_loss --text FILE --preset shakespeare-char-classic-cpu --windows 64 --repeats 1", 20
    ),
    "parity": Benchmark("classic_parity --peer PEER --text FILE --seeds 3", 45),
    "ways": Benchmark("ways --text FILE", 180),
    "loss_curve": Benchmark(
        "loss_curve --peer PEER --text FILE --svg CURVE", 15, ("matplotlib",)
    ),
    "throughput_4L": Benchmark("throughput --peer PEER --text FILE --shapes 4L/128", 20),
    "throughput_6L": Benchmark(
        "throughput --peer PEER --text FILE --shapes 6L/384 --repeats 1 --iters 2", 30
    ),
    "memory": Benchmark("memory --peer PEER --text FILE --repeats 1", 20),
    "first_step": Benchmark("first_step --peer PEER --text FILE --repeats 3", 10),
    "sampling": Benchmark("sample_speed --peer PEER --text FILE", 60),
    "formats": Benchmark(
        "sample_speed --peer PEER --text FILE --shapes 124M --formats bfloat16 int8 int4",
        60, OTHERS, small=("--formats", "int8"),
    ),
    "serving": Benchmark("serve_load --text FILE", 30, ("fastapi", "gguf", "xllamacpp")),
    "page": Benchmark("page_speed --text FILE --shapes --run RUN --repeats 1", 15, ("chromium",)),
    "prepare": Benchmark("prepare_speed --peer PEER --text FILE", 15),
    "loader": Benchmark("loader_speed --peer PEER --text FILE --gigabytes 10", 30),
    "tokenizers": Benchmark(
        "tokenizer_speed --text TEXTS --repeats 1", 30, ("rustbpe", "tiktoken")
    ),
    "tokenizers_english": Benchmark(
        "tokenizer_speed --text ENGLISH --repeats 1 --tasks encode", 20, ("tiktoken",)
    ),
}  # fmt: skip
# what stands for them in a command that is shown
PLACES = {
    "PEER": "PATH_TO_NANOGPT", "FILE": "FILE", "TEXTS": "TEXTS", "ENGLISH": "ENGLISH",
    "RUN": "out/demo", "CURVE": "docs/loss_curve.svg",
}  # fmt: skip

TRAINED = "--max_iters=2 --eval_iters=1 --n_layer=1 --n_head=2 --n_embd=32"
# by script: what makes it small
SMALL: dict[str, list[str]] = {
    "best_loss": ["--repeats=1", f"--ours_args={TRAINED} {ONE_STAGE}"],
    "classic_parity": ["--repeats=1", "--max_iters=2", f"--ours_args={TRAINED}"],
    "first_step": ["--repeats=1", f"--ours_args={TRAINED}"],
    "loader_speed": ["--repeats=1", "--gigabytes=0.001", "--seconds=0.05",
                     "--ours_args=--max_iters=12"],
    "loss_curve": ["--repeats=1", "--presets", "demo", f"--ours_args={TRAINED}"],
    "memory": ["--repeats=1", f"--ours_args={TRAINED} --batch_size=1"],
    "ngram": [],
    "page_speed": ["--repeats=1", "--shapes", "0.8M", "--new_tokens=4"],
    "prepare_speed": ["--repeats=1", "--megabytes=1"],
    "sample_speed": ["--repeats=1", "--shapes", "0.8M", "--new_tokens=4"],
    "serve_load": ["--repeats=1", "--shape=0.8M", "--clients=3", "--requests=1", "--new_tokens=8",
                   "--alone", "--minutes=0.005"],
    "throughput": ["--repeats=1", f"--ours_args={TRAINED} --max_iters=21 --batch_size=1"],
    "time_to_loss": ["--repeats=1", f"--ours_args={TRAINED}"],
    "tokenizer_speed": ["--repeats=1", "--megabytes=0.03", "--train_megabytes=0.01",
                        "--vocab_size=300"],
    "ways": ["--repeats=1", "--presets", "demo", f"--ours_args={TRAINED}"],
}  # fmt: skip


def main() -> None:
    args = arguments()
    record = opened(args)
    if (load := os.getloadavg()[0]) > 0.5 and args.only != [] and not args.quick:
        print(f"the machine is not quiet: a load of {load:.1f}; figures will be too", flush=True)
    names = list(BENCHMARKS) if args.only is None else args.only
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        visit = Visit(args, Path(folder), record)
        with ThreadPoolExecutor(os.cpu_count() if args.quick else 1) as pool:
            try:
                ended = dict(zip(names, pool.map(visit.run, names), strict=True))
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                visit.stop()
                print(f"interrupted; the same command goes on, from {args.json}", file=sys.stderr)
                raise SystemExit(130) from None
    if args.write:
        readme.take(record, args.json.with_suffix(".svg"))
    bad = {name: status for name, status in ended.items() if not status.startswith(GOOD)}
    for name, status in bad.items():
        print(f"{name}: {status}", file=sys.stderr)
    if bad:
        raise SystemExit(f"{len(bad)} of {len(ended)} did not end well; the rest is in {args.json}")


LEFT_OUT = "left out: "
GOOD = ("ok", LEFT_OUT)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peer", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--text", type=Path, help="the canonical tiny Shakespeare file")
    parser.add_argument("--texts", type=Path, nargs="+", help="text in many languages, 200 MB")
    parser.add_argument("--english", type=Path, nargs="+", help="English text, 200 MB")
    parser.add_argument("--run", type=Path, help="a trained demo; default: it is trained first")
    parser.add_argument(
        "--only", nargs="*", choices=BENCHMARKS, metavar="NAME",
        help=f"measure these again: {', '.join(BENCHMARKS)}",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="results, default all.json; all-quick.json")
    parser.add_argument("--machine", help="its name in the README; default: what the CPU says")
    parser.add_argument("--write", action="store_true", help="write the README's figures")
    parser.add_argument("--quick", action="store_true", help="tiny cases")
    args = parser.parse_args()
    if args.quick and args.write:
        parser.error("--quick measures nothing that the README could have: leave out --write")
    if args.peer and not (args.peer / "config" / "train_shakespeare_char.py").is_file():
        parser.error(f"{args.peer} is not a checkout of nanoGPT")
    for path in (args.text, *(args.texts or ()), *(args.english or ())):
        if path and not path.is_file():
            parser.error(f"there is no file {path}")
    args.json = args.json or Path("all-quick.json" if args.quick else "all.json")
    if args.quick:
        args.texts, args.english = args.texts or [args.text], args.english or [args.text]
    return args


def opened(args: argparse.Namespace) -> dict[str, Any]:
    """The record that is there already, or a new one; SystemExit where it is of another kind."""
    new = {
        "benchmark": "all", "quick": args.quick, "machine": args.machine or machine(), "parts": {},
    }  # fmt: skip
    if not args.json.exists():
        return new
    try:
        record = json.loads(args.json.read_text(encoding="utf-8"))
        kind = {key: record[key] for key in new if key != "parts"}
        record["parts"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SystemExit(
            f"{args.json} is not a file of this script: name another with --json"
        ) from None
    for key, value in kind.items():
        if value != new[key]:
            raise SystemExit(
                f"{args.json} has {key} {value!r}, and this is {new[key]!r}: name another "
                "file with --json"
            )
    return record


def machine() -> str:
    """This machine: its threads and its processor's own name, with what multiplies bfloat16."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name, formats = platform.processor() or platform.machine(), []
    with contextlib.suppress(OSError):
        shown = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if match := re.search(r"(?m)^model name\s*: (.+)$", shown):
            name = " ".join(match[1].split())
        flags = set((re.search(r"(?m)^flags\s*: (.+)$", shown) or [""])[0].split())
        formats = [shown for flag, shown in (("avx512_bf16", "AVX512-BF16"), ("amx_bf16", "AMX"))
                   if flag in flags]  # fmt: skip
    return f"{threads} threads of {name}" + (f" ({', '.join(formats)})" if formats else "")


class Visit:
    """The running of benchmarks, whose results go into `record` and its file as they come."""

    def __init__(self, args: argparse.Namespace, work: Path, record: dict[str, Any]) -> None:
        self.args, self.work, self.record = args, work, record
        self.lock = threading.Lock()
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.places: dict[str, list[str]] = {
            "PEER": paths(args.peer), "FILE": paths(args.text), "TEXTS": paths(*args.texts or ()),
            "ENGLISH": paths(*args.english or ()), "RUN": paths(args.run),
            "CURVE": paths(args.json.with_suffix(".svg")),
        }  # fmt: skip
        self.stopped = False

    def run(self, name: str) -> str:
        """Run a benchmark that has not ended well before, or that `--only` names; its status."""
        before = self.record["parts"].get(name, {})
        shown = command(name)
        good = before.get("status") == "ok" and before.get("command") == shown
        if good and not self.args.only:
            print(f"== {name}: measured already, at commit {before['record']['commit']}")
            return "ok"
        entry: dict[str, Any] = {"status": "running", "command": shown}
        if reason := self.missing(name):
            entry["status"] = LEFT_OUT + reason
        else:
            self.measure(name, entry)
        if entry["status"] == "ok" or not good:  # an earlier result is better than none
            self.note(name, entry)
        print(f"== {name}: {entry['status']}", flush=True)
        if not entry["status"].startswith(GOOD):
            print("\n".join(f"   | {line}" for line in entry.get("tail", ())[-12:]), flush=True)
        return entry["status"]

    def missing(self, name: str) -> str:
        """What a benchmark needs and is not there; "" where nothing is missing."""
        for package in BENCHMARKS[name].needs:
            if package == "chromium":
                if chromium() is None:
                    return "Chromium is not installed"
            elif importlib.util.find_spec(package) is None:
                return f"the package {package} is not installed"
        options = {"PEER": "--peer", "TEXTS": "--texts", "ENGLISH": "--english"}
        for word in BENCHMARKS[name].command.split():
            if word in options and not self.places[word]:
                return f"no {options[word]}"
        return ""

    def measure(self, name: str, entry: dict[str, Any]) -> None:
        """Run a benchmark and put what became of it into `entry`."""
        script, *words = shlex.split(BENCHMARKS[name].command)
        if "RUN" in words and self.args.quick:
            del words[words.index("RUN") - 1 : words.index("RUN") + 1]
        elif "RUN" in words and not self.places["RUN"] and not self.train(entry):
            return
        options = [path for word in words for path in self.places.get(word, [word])]
        if "FILE" in words and not self.args.text:  # each takes the text that it can have
            options = options[: options.index("--text")] + options[options.index("--text") + 1 :]
        small = [*SMALL[script], *BENCHMARKS[name].small] if self.args.quick else []
        out = self.work / f"{name}.json"
        entry["load"] = round(os.getloadavg()[0], 2)
        minutes = QUICK_MINUTES if self.args.quick else BENCHMARKS[name].minutes
        self.process(name, [str(HERE / f"{script}.py"), *options, *small, "--out", str(out)],
                     minutes, entry)  # fmt: skip
        if entry["status"] == "ok":
            entry["record"] = json.loads(out.read_text(encoding="utf-8"))
            entry.pop("tail")

    def train(self, entry: dict[str, Any]) -> bool:
        """Train the demo for what needs a run; whether that ended well."""
        words = ["-m", "bardlet", "demo"]
        words += ["--file", str(self.args.text.resolve())] if self.args.text else []
        self.process("a demo", words, QUICK_MINUTES, entry)
        self.places["RUN"] = [str(self.work / "out" / "demo")]
        return entry["status"] == "ok"

    def process(self, name: str, words: list[str], minutes: float, entry: dict[str, Any]) -> None:
        """Run Python until it ends or its time is up; its status, seconds and last lines."""
        entry["status"] = "interrupted"
        if self.stopped:
            return
        print(f"== {name}, at most {minutes:g} minutes", flush=True)
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *words], text=True, errors="replace", stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True, cwd=self.work,
            env={**os.environ, "PYTHONPATH": readme.joined(HERE.parent), "PYTHONUNBUFFERED": "1",
                 **({"OMP_NUM_THREADS": "1"} if self.args.quick else {})},
        )  # fmt: skip
        self.processes[name] = process
        timer = threading.Timer(60 * minutes, self.end, [name])
        timer.start()
        assert process.stdout is not None
        tail: list[str] = []
        for line in process.stdout:
            tail = [*tail[-29:], line.rstrip()]
            if line.startswith("run ") and not self.args.quick:
                print(f"   {line.rstrip()}", flush=True)
        code = process.wait()
        up = not timer.is_alive()
        timer.cancel()
        process.stdout.close()
        entry["status"] = "ok" if not code else f"failed: exit code {code}"
        if self.stopped:
            entry["status"] = "interrupted"
        elif up and code:
            entry["status"] = f"cut short: its {minutes:g} minutes were up"
        entry |= {"seconds": round(time.monotonic() - began, 1), "tail": tail}

    def end(self, name: str) -> None:
        """End a process with all that it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.processes[name].pid, signal.SIGKILL)

    def stop(self) -> None:
        """End every process."""
        self.stopped = True
        for name in self.processes:
            self.end(name)

    def note(self, name: str, entry: dict[str, Any]) -> None:
        """Put a benchmark's results into the record and its file."""
        with self.lock:
            self.record["parts"][name] = entry
            write(self.record, self.args.json)


def chromium() -> str | None:
    """Where Chromium is, by what finds it for pages."""
    sys.path.append(str(HERE.parent))
    from bardlet.interop.html.chromium import program  # without torch

    return program()


def command(name: str) -> str:
    """A benchmark's command as it is shown: with names in place of this machine's paths."""
    script, *words = BENCHMARKS[name].command.split()
    return " ".join([f"python bench/{script}.py", *(PLACES.get(word, word) for word in words)])


def paths(*names: Path | None) -> list[str]:
    """Absolute paths of the names that there are."""
    return [str(name.resolve()) for name in names if name]


if __name__ == "__main__":
    main()
