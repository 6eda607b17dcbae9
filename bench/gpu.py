"""All that is to be measured on a GPU, in one visit of eight minutes, the most important first.

    python bench/gpu.py --pack .gpu --text FILE [--peer PATH]    # before, where packages come from
    python bench/gpu.py --packed .gpu --out gpu.json             # on the machine with the GPU
    python bench/gpu.py --device cpu --quick                     # the same in small, anywhere

The machine needs Python 3.12 on Linux with torch 2.11 or later, and nothing of a network. What else
is needed travels in one folder, which `--pack` fills: wheels of the packages that may be missing
there, the canonical text of tiny Shakespeare, and a checkout of nanoGPT. Wheels are unpacked there
where the package is missing. The compiled core (`*.so` under bardlet/) may travel with the tree;
without it, CPUs compute through torch, and the record says so.

Each part runs in a process of its own under a time limit, and what it finds is in the JSON at once,
so that a visit cut short still counts. `--parts` names some: gpu_parts.py says what they do. Where
time allows for a second visit, after what the first has shown is mended, `--minutes 4 --parts` with
the names of what failed or was cut short measures that alone.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# in order of importance: the seconds that each may take. Most take less, and what is left out for
# want of time is for a second visit
LIMITS = {
    "machine": 20, "tests": 110, "classic": 85, "peer_classic": 125, "time_to_loss": 55,
    "throughput": 65, "peer_throughput": 50, "sampling": 30, "peer_sampling": 25, "plan": 50,
    "techniques": 60,
}  # fmt: skip
VISIT_S = 8 * 60
SMALL_S = 300  # of a part in small, which a busy CPU computes
MIN_S = 5.0  # with less left, no part begins
NO_PEER = "left out: no --peer"
# by the name that is imported: the wheel, where that is another
PACKAGES = {
    "jinja2": "", "markupsafe": "", "numpy": "", "safetensors": "", "tokenizers": "",
    "huggingface_hub": "", "filelock": "",
    "rich": "", "pygments": "", "markdown_it": "markdown-it-py", "mdurl": "", "hypothesis": "",
    "charset_normalizer": "charset-normalizer", "pytest": "", "pluggy": "", "iniconfig": "",
    "packaging": "", "sortedcontainers": "", "pytest_timeout": "pytest-timeout",
    "xdist": "pytest-xdist", "execnet": "",
}  # fmt: skip
TEXT, PEER, WHEELS = "tinyshakespeare.txt", "nanoGPT", "wheels"


def main() -> None:
    args = arguments()
    if args.pack:
        pack(args.pack, args.text, args.peer)
        return
    with tempfile.TemporaryDirectory(prefix="gpu-") as name:
        work = Path(name)
        text, peer = args.text, args.peer
        if args.packed:
            text = text or existing(args.packed / TEXT)
            peer = peer or existing(args.packed / PEER)
        if text is None and not args.quick:
            raise SystemExit("the canonical text is missing: name it with --text, or --packed")
        paths = [str(ROOT), *unpacked(args.packed, work)]
        record: dict[str, Any] = {
            "benchmark": "gpu", "device": args.device, "quick": args.quick,
            "commit": commit(ROOT), "peer_commit": commit(peer) if peer else None,
            "began": now(), "parts": {},
        }  # fmt: skip
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
        ends = time.monotonic() + (60 * args.minutes if not args.quick else SMALL_S * len(LIMITS))
        limits = limits_of(args.parts, 60 * args.minutes)
        for part in args.parts:
            if part.startswith("peer") and peer is None:
                record["parts"][part] = {"status": NO_PEER, "results": []}
                continue
            limit = min(SMALL_S if args.quick else limits[part], ends - time.monotonic())
            options = ["--device", args.device, "--work", str(work)]
            options += ["--quick"] * args.quick
            options += ["--text", str(text)] if text else []
            options += ["--peer", str(peer)] if peer else []
            run_part(part, options, paths, limit, record, args.out)
        record["finished"] = now()
        write(record, args.out)
    statuses = {part: entry["status"] for part, entry in record["parts"].items()}
    bad = [part for part, status in statuses.items() if status not in ("ok", NO_PEER)]
    if bad:
        raise SystemExit(
            f"parts that did not end well: {', '.join(bad)}; the rest is in {args.out}"
        )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="default cuda; cpu tries the script")
    parser.add_argument("--quick", action="store_true", help="every part in small")
    parser.add_argument("--parts", nargs="+", choices=LIMITS, default=list(LIMITS))
    parser.add_argument("--minutes", type=float, default=VISIT_S / 60, help="of the whole visit")
    parser.add_argument("--text", type=Path, help="the canonical tiny Shakespeare file")
    parser.add_argument("--peer", type=Path, help="a checkout of nanoGPT, to measure beside")
    parser.add_argument("--packed", type=Path, help="a folder that --pack has filled")
    parser.add_argument("--pack", type=Path, help="fill this folder with what must travel, and end")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="default gpu.json")
    return parser.parse_args()


def limits_of(parts: list[str], seconds: float) -> dict[str, float]:
    """The seconds that each part may take: more than usual where few share the visit."""
    total = sum(LIMITS[part] for part in parts)
    return {part: LIMITS[part] * max(1.0, seconds / total) for part in parts}


# --- what travels


def pack(folder: Path, text: Path | None, peer: Path | None) -> None:
    """Fill a folder with wheels for Linux and Python 3.12, the text, and the peer's checkout."""
    (folder / WHEELS).mkdir(parents=True, exist_ok=True)
    names = [wheel or name for name, wheel in PACKAGES.items()]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest",
               str(folder / WHEELS), "--only-binary=:all:", "--python-version=3.12",
               "--implementation=cp", "--abi=cp312", "--abi=abi3", "--abi=none"]  # fmt: skip
    for glibc in ("2_28", "2_17", "2014"):
        command.append(f"--platform=manylinux{'' if glibc == '2014' else '_'}{glibc}_x86_64")
    subprocess.run([*command, *names], check=True)
    if text:
        shutil.copy(text, folder / TEXT)
    if peer:
        ignored = shutil.ignore_patterns(".git", "*.png", "*.jpg", "*.bin")
        shutil.copytree(peer, folder / PEER, dirs_exist_ok=True, ignore=ignored)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB")


def unpacked(folder: Path | None, work: Path) -> list[str]:
    """Where the packages are that this Python lacks, unpacked from their wheels."""
    if folder is None:
        return []
    target = work / "packages"
    target.mkdir()
    for name, wheel in PACKAGES.items():
        if importlib.util.find_spec(name) is None:
            stem = (wheel or name).replace("-", "_").lower()
            for path in (folder / WHEELS).glob("*.whl"):
                if path.name.lower().startswith(f"{stem}-"):
                    try:
                        with zipfile.ZipFile(path) as archive:
                            archive.extractall(target)
                    except (OSError, zipfile.BadZipFile) as error:
                        print(f"{path.name} is left out: {error}", flush=True)
    return [str(target)]


def existing(path: Path) -> Path | None:
    return path if path.exists() else None


# --- the parts


def run_part(
    part: str, options: list[str], paths: list[str], limit: float, record: dict[str, Any], out: Path
) -> None:
    """Run a part until it ends or its time is up; its results are in the record as they come."""
    entry: dict[str, Any] = {"status": "running", "limit_s": round(limit, 1), "results": []}
    record["parts"][part] = entry
    if limit < MIN_S:
        entry["status"] = "left out: no time"
        write(record, out)
        return
    write(record, out)
    print(f"== {part}, at most {limit:.0f} s", flush=True)
    began, tail = time.monotonic(), []
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "bench" / "gpu_parts.py"), part, *options],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        env=environment(paths), start_new_session=True,
    )  # fmt: skip

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("RESULT "):
                with contextlib.suppress(ValueError):
                    entry["results"].append(json.loads(line.removeprefix("RESULT ")))
                    print(f"   {line.removeprefix('RESULT ').strip()[:400]}", flush=True)
                write(record, out)
            else:
                tail.append(line.rstrip())
                del tail[:-30]

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        code = process.wait(limit)
        entry["status"] = "ok" if code == 0 else f"failed: exit code {code}"
    except subprocess.TimeoutExpired:
        entry["status"] = "cut short: its time was up"
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # with all that it has started
        process.wait()
        listener.join(5)
        assert process.stdout is not None
        process.stdout.close()
    entry["seconds"] = round(time.monotonic() - began, 1)
    if entry["status"] != "ok":
        entry["tail"] = tail
        print("\n".join(f"   | {line}" for line in tail[-12:]), flush=True)
    print(f"   {entry['status']} after {entry['seconds']} s", flush=True)
    write(record, out)


def environment(paths: list[str]) -> dict[str, str]:
    """That of a part: bardlet from the tree, and packages that came along."""
    before = os.environ.get("PYTHONPATH", "")
    return {
        **os.environ, "PYTHONPATH": os.pathsep.join([*paths, before] if before else paths),
        "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip


def write(record: dict[str, Any], out: Path) -> None:
    """Write the record whole: a visit may end at any moment, and no disk ends it sooner."""
    partial = out.with_name(f".{out.name}.tmp")
    try:
        partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        print(f"   {out} could not be written: {error}", flush=True)


def commit(folder: Path) -> str:
    """The commit of a checkout, if git is there and knows it."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    with contextlib.suppress(OSError):
        described = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True)
        return described.stdout.strip() or "unknown"
    return "unknown"


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


if __name__ == "__main__":
    main()
