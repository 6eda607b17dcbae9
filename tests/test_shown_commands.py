"""Every command that README.md and docs/ show is run, on a case of seconds: here, or by .ci/run.

A command is a line of an `sh` block, or a span of code of a program's name and more. Those of
bardlet run in the order of their page, section by section, with the options of `SMALLER` after
their own; benchmarks with those of `BENCH`. What takes longer is marked slow, and .ci/run runs it.
A command that no table knows fails the first test.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import fake_peer
import pytest
from support import CORPUS, ROOT, a_ckpt, a_data_folder, some_text, tiny_model

from bardlet.cli import main
from bardlet.commands import COMMANDS, settings
from bardlet.config import FIELDS
from bardlet.data.dataset import nanogpt as nanogpt_data
from bardlet.data.tokenizers import bpe_training, pretrained
from bardlet.data.tokenizers.base import from_json
from bardlet.interop import load
from bardlet.interop.huggingface import export as hf
from bardlet.planning import sizing
from bardlet.run.state import Imported

sys.path.insert(0, str(ROOT / "bench"))

import all as every

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = ("bardlet", "python", "torchrun", "pip", "pytest", "make")
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
OTHER_BLOCKS = {"text", "python"}  # what programs print, and `--help`; Python has its own test
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")

# --- how each is run

TINY = (
    "--n_layer=1 --n_head=2 --n_embd=32 --block_size=16 --max_iters=2 --eval_iters=1 "
    "--batch_size=2 --gradient_accumulation_steps=1 --log_interval=1 --device=cpu --fresh "
    "--stages=1 --stage_iters=0 --stage_options="
)
FEW = "--max_iters=1 --gradient_accumulation_steps=1 --eval_iters=1 --device=cpu"
SHORT = "--max_new_tokens=4 --num_samples=1 --device=cpu"
TEXT = "--file=plays.txt"
# by the beginning of a command, the longest that fits: what makes it small
SMALLER = {
    "bardlet prepare": "", "bardlet prepare tinyshakespeare": TEXT, "bardlet inspect": "",
    "bardlet ls": "",
    "bardlet train": TINY, "bardlet train finetune-shakespeare": FEW,
    "bardlet train eval-gpt2": "--eval_iters=1 --device=cpu",
    "bardlet train --out_dir=out/run": "--resume --max_iters=3",
    "bardlet train demo --dataset=plain": TINY.replace("block_size=16", "block_size=64"),
    "bardlet train chat-sft": FEW, "bardlet train chat-lora": FEW,
    "bardlet train chat-dpo": FEW,
    "bardlet chat": "--max_new_tokens=4 --device=cpu",
    "bardlet compare": "--device=cpu",
    "bardlet sample": SHORT, "bardlet eval": "--device=cpu", "bardlet doctor": "",
    "bardlet next": "", "bardlet attention": "", "bardlet explain": "",
    "bardlet tokenizer": "", "bardlet count": "", "bardlet import": "", "bardlet export": "",
    "bardlet report": "--out report.html", "bardlet plot": "",
    "bardlet verify-resume": f"{TINY} --max_iters=100000 --seconds=0.5",
    "bardlet plan": f"{TINY} --seconds=0.1",
    "bardlet launch-check": "--device=cpu",
    "bardlet plan gpt2-124m": "", "bardlet plan gpt2-124m-fast": "",  # elsewhere: by formulas
}  # fmt: skip
# commands that start processes or load other programs: .ci/run has them run
SLOW = (
    "bardlet verify-resume", "bardlet plan", "torchrun", "bardlet export out/shakespeare-char",
)  # fmt: skip
# spans that name a command without its arguments: its help is shown
NAMED = re.compile(r"bardlet(?: [a-zA-Z-]+)?(?: [a-z]+(?:\|[a-z]+)*)?(?: --help)?")
PLACEHOLDERS = {"<name>": "demo", "COMMAND": "train"}
# what a section's commands find made, beside a prepared tinyshakespeare
BEFORE = {
    "What it writes": ["bardlet train demo"],
    "Use your model": ["bardlet train demo"],
    "Look into it": [
        "bardlet prepare tinyshakespeare", "bardlet train demo", "bardlet train shakespeare-char",
    ],
    "For nanoGPT's users": [
        "bardlet train shakespeare-char", "bardlet train shakespeare-char-classic "
        "--out_dir=out/classic", "bardlet prepare plays.txt --tokenizer gpt2 --out "
        "data/openwebtext", "bardlet train demo --out_dir=out/run",
    ],
    "A run: `out/<name>/`": ["bardlet train demo"],
    "Preferences": [
        "bardlet prepare chats.jsonl --tokenizer byte --out data/plain",
        "bardlet train demo --dataset=plain --out_dir=out/chat-sft",
    ],
    "A task of your own": ["bardlet train demo"],
    "Write one": ["bardlet train demo"],
    "Counting in the terminal": ["bardlet train demo"],
    "The page of runs": ["bardlet train demo"],
    "A picture": ["bardlet train demo", "bardlet train demo --out_dir=out/sampled"],
    "Which is better?": [
        "bardlet train demo", "bardlet train demo --out_dir=out/other",
        "bardlet prepare tinyshakespeare --tokenizer byte --out data/bytes",
        "bardlet train demo --dataset=bytes --out_dir=out/bytes",
    ],
}  # fmt: skip
BY_CI = ("pip install -c constraints.txt -e .", "pip install -c constraints.txt -e '.[test]'",
         "pytest", "bardlet demo")  # fmt: skip
ALL = "python bench/all.py --peer PATH_TO_NANOGPT --text FILE"
# each has a test of its own
OTHERS = (
    "make docs",
    "python tests/rooms.py",
    "bardlet serve out/demo",
    "bardlet serve out/chat-sft",
    "python bench/gpu.py --device cpu --quick",
    f"{ALL} --quick",
)
BY_HAND = {
    "pytest -m slow": "hundreds of kills and runs take too long for every change",
    "pytest -m slow tests/whole/test_trl.py": "it needs trl, which no other test does",
    "pip install -c constraints.txt -e '.[test,peers]'": "trl and all that it brings",
    f"{ALL} --texts TEXTS --english ENGLISH --write": "hours; test_bench_all.py has what it does",
    f"{ALL} --only memory prepare --write": "minutes, and it writes the README",
    "python bench/all.py --only --write": "it writes the README",
    "pytest -n 0": "the same tests in one process",
}

TRAINED = every.TRAINED
ALONE = ("best_loss", "chat", "ngram", "other_scores", "page_speed", "plan_accuracy", "save_cost",
         "serve_load", "tokenizer_speed", "ways")  # no peer  # fmt: skip
# by script: what makes it small
BENCH: dict[str, list[str]] = {
    **every.SMALL,
    "chat": ["--pairs=60", "--epochs=0.5", "--layers=1", "--size=32", "--base_iters=2",
             "--held_out=5"],
    "other_scores": ["--stride=32", "--windows=128", f"--ours_args={TRAINED}"],
    "plan_accuracy": ["--repeats=1", "--cases", "demo", f"--ours_args={TRAINED}"],
    "save_cost": ["--repeats=1", "--iters=4", "--every=2", f"--ours_args={TRAINED} --max_iters=4"],
}  # fmt: skip


# --- what is shown


@dataclasses.dataclass(frozen=True)
class Shown:
    """A command, the page and heading that it stands under, and whether in a block or a span."""

    page: str
    heading: str
    command: str
    block: bool


def shown(page: str, text: str) -> Iterator[Shown]:
    """The commands of a page in Markdown, in its order."""
    for part in re.split(r"^(?=## )", text, flags=re.MULTILINE):
        heading = part.partition("\n")[0].removeprefix("## ") if part.startswith("## ") else ""
        for language, block in BLOCK.findall(part):
            assert language in {"sh", *OTHER_BLOCKS}, f"{page}: a block of {language or 'what?'}"
            names: dict[str, str] = {}
            for line in block.splitlines() if language == "sh" else ():
                for command in re.sub(r"(^|\s)#.*", "", line).split("&&"):
                    if name := re.fullmatch(r'(\w+)="(.*)"', command.strip()):
                        names[f"${name[1]}"] = name[2]
                        continue
                    for name, value in names.items():
                        command = command.replace(name, value)
                    if command.strip():
                        yield Shown(page, heading, command.strip(), block=True)
        prose = BLOCK.sub("", part)
        for command in re.findall(rf"`((?:{'|'.join(PROGRAMS)})\s[^`]+)`", prose):
            yield Shown(page, heading, " ".join(command.split()), block=False)


SHOWN = [one for page in PAGES for one in shown(page.name, page.read_text(encoding="utf-8"))]
BENCHES = list(
    dict.fromkeys(
        one.command
        for one in SHOWN
        if "python bench/" in one.command and one.command not in (*OTHERS, *BY_HAND)
    )
)


def way(one: Shown) -> str:
    """How a command is run: by "ci", by "hand", as "bench", "extra", "other", "help", "slow" or
    "here"; "" where no table has it."""
    command = one.command
    if command in BY_CI:
        return "ci"
    if command in BY_HAND:
        return "hand"
    if command in OTHERS:
        return "other"
    if command.startswith("python bench/"):
        return "bench" if script(command) in BENCH else ""
    if re.fullmatch(r"pip install( 'bardlet\[.*\]')?", command):
        return "extra"
    if not one.block and NAMED.fullmatch(command):
        return "help"
    if command.startswith(SLOW) and " --gpu " not in command:
        return "slow"
    return "here" if beginning(command) else ""


def script(command: str) -> str:
    """The benchmark that a command runs."""
    return Path(command.split()[1]).stem


def beginning(command: str) -> str:
    """The longest of `SMALLER` that a command begins with, or ""."""
    fits = [name for name in SMALLER if f"{command} ".startswith(f"{name} ")]
    return max(fits, key=len, default="")


def test_every_command_that_is_shown_has_a_way_to_be_run() -> None:
    unknown = [(one.page, one.command) for one in SHOWN if not way(one)]
    assert unknown == [], "add it to a table of this file: how is it run on a case of seconds?"
    assert len(SHOWN) > 50
    for command in BY_CI:
        assert re.search(rf"(?m)(^|[ (]){re.escape(command)}($|[ ;])", CI), command


def test_a_command_in_any_block_or_span_is_seen() -> None:
    text = (
        '`bardlet a` and `other b`\n```sh\nP="-p 1"\nbardlet c $P  # why\nx && y\n```\n'
        "## H\n\n  ```text\n  bardlet z\n  ```\n`python\nd`"
    )
    assert [(one.heading, one.command, one.block) for one in shown("p", text)] == [
        ("", "bardlet c -p 1", True), ("", "x", True), ("", "y", True), ("", "bardlet a", False),
        ("H", "python d", False),
    ]  # fmt: skip
    for wrong in ("frobnicate", "bardlet new-command now", "python bench/new.py"):
        assert way(Shown("p", "", wrong, block=True)) == ""
    with pytest.raises(AssertionError, match="a block of bash"):
        list(shown("p", "```bash\nbardlet a\n```\n"))


# --- bardlet's commands

SECTIONS = list(dict.fromkeys((one.page, one.heading) for one in SHOWN if way(one) == "here"))
SLOW_ONES = [one for one in SHOWN if way(one) == "slow"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with every file that a page takes for granted."""
    monkeypatch.chdir(tmp_path)
    Path("my-texts").mkdir()
    text = CORPUS.read_text(encoding="utf-8") if CORPUS.is_file() else made_text()
    for name in ("plays.txt", "my-texts/a.txt"):
        Path(name).write_text(text[:30_000], encoding="utf-8")
    stories = "<|endoftext|>\n".join(f"Story {i}.\nThe end.\n" for i in range(40))
    for name in ("stories.txt", "valid.txt"):
        Path(name).write_text(stories, encoding="utf-8")
    Path("prompts.txt").write_text("ROMEO:\nJULIET:\n", encoding="utf-8")
    pairs = [
        {"question": f"What is a sonnet? {i}", "answer": f"Fourteen lines. {i}"} for i in range(99)
    ]
    lines = "".join(f"{json.dumps(pair)}\n" for pair in pairs)
    Path("pairs.jsonl").write_text(lines, encoding="utf-8")
    chats = [
        {"messages": [{"role": "user", "content": f"Where is Ann? {i}"},
                      {"role": "assistant", "content": f"In Rome. {i}"}]} for i in range(40)
    ]  # fmt: skip
    lines = "".join(f"{json.dumps(chat)}\n" for chat in chats)
    Path("chats.jsonl").write_text(lines, encoding="utf-8")
    preferred = [
        {"prompt": f"Where is Ann? {i}", "chosen": "In Rome.", "rejected": "Eh?"} for i in range(40)
    ]
    lines = "".join(f"{json.dumps(pair)}\n" for pair in preferred)
    Path("preferences.jsonl").write_text(lines, encoding="utf-8")
    choice = {"context": "to be or not", "choices": ["to be", "the question"], "answer": 0}
    Path("choices.jsonl").write_text(f"{json.dumps(choice)}\n" * 9, encoding="utf-8")
    chars = from_meta(tmp_path)
    a_ckpt(tmp_path / "out-shakespeare-char" / "ckpt.pt", tiny_model("gpt2", vocab_size=chars))
    Path("config").mkdir()
    Path("config/train_shakespeare_char.py").write_text(
        "# nanoGPT's\nout_dir = 'out/config'\ndataset = 'tinyshakespeare'\n"
        "gradient_accumulation_steps = 1\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(sizing, "measure", lambda machine: sizing.Speed(flops=1e11))
    # in GPT-2's place a small vocabulary, and a model of random weights by its name
    vocabulary = bpe_training.train(text[:9000], 300)
    monkeypatch.setattr(pretrained, "gpt2", lambda say: vocabulary)
    model = tiny_model("gpt2", vocab_size=310, block_size=1024)
    Path("gpt2").mkdir()
    gpt2 = load.imported(Imported(source="gpt2"), model, from_json(vocabulary, "it"))
    hf.write(gpt2, Path("gpt2"), "float32")
    return tmp_path


def made_text() -> str:
    """In the canonical text's place: speeches of its speakers."""
    words = some_text(30_000)
    speeches = [words[start : start + 100] for start in range(0, len(words), 100)]
    return "\n\n".join(f"ROMEO:\n{speech}" for speech in speeches)


def from_meta(folder: Path) -> int:
    """The number of characters of a data folder of nanoGPT's that is made in `folder`."""
    made = a_data_folder(folder / "data" / "shakespeare_char")
    return nanogpt_data.of_meta(made / "meta.pkl").vocab_size


def run(command: str) -> None:
    """A command with its smaller options, as the shell would give it to the program."""
    for name, value in PLACEHOLDERS.items():
        command = command.replace(name, value)
    quoted = re.sub(r"\$'([^']*)'", lambda m: shlex.quote(m[1].replace("\\n", "\n")), command)
    smaller = SMALLER[beginning(command.partition("-m ")[2] or command)]
    words = [*shlex.split(quoted), *smaller.split()]
    if words[0] == "torchrun":
        code = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", *words[1:]]
        ).returncode
    else:
        code = main(words[1:])
    assert code == 0, command


@pytest.mark.parametrize(("page", "heading"), SECTIONS, ids=lambda part: part)
def test_the_commands_of_a_section_run(page: str, heading: str, folder: Path) -> None:
    for command in ["bardlet prepare tinyshakespeare", *BEFORE.get(heading, ())]:
        run(command)
    for one in SHOWN:
        if (one.page, one.heading) == (page, heading) and way(one) == "here":
            run(one.command)


def test_the_readmes_python_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = dict(BLOCK.findall(PAGES[0].read_text(encoding="utf-8")))
    for command in ("bardlet prepare tinyshakespeare", "bardlet train demo"):
        run(command)
    capsys.readouterr()
    exec(blocks["python"], {})
    assert len(capsys.readouterr().out) > 100


@pytest.mark.parametrize("one", SLOW_ONES, ids=lambda one: one.command)
def test_a_slow_command_is_one(one: Shown) -> None:
    """Its options and presets exist: its help is reached with them in place."""
    command, *words = shlex.split(one.command.rpartition("bardlet ")[2])
    if command in ("train", "plan", "verify-resume"):
        for word in words:
            known = FIELDS if word.startswith("--") else settings.preset_names()
            assert word.removeprefix("--").partition("=")[0] in known
    with pytest.raises(SystemExit) as end:
        main([command, *words, "--help"])
    assert end.value.code == 0


@pytest.mark.slow
@pytest.mark.parametrize("one", SLOW_ONES, ids=lambda one: one.command)
def test_a_slow_command_runs(one: Shown, folder: Path) -> None:
    for command in ["bardlet prepare tinyshakespeare", *BEFORE.get(one.heading, ())]:
        run(command)
    run(one.command)


def test_commands_that_are_only_named_have_help(capsys: pytest.CaptureFixture[str]) -> None:
    for one in SHOWN:
        if way(one) != "help":
            continue
        command = one.command.replace("COMMAND", "train").removesuffix(" --help")
        first, _, last = command.rpartition(" ")
        for action in last.split("|"):
            words = f"{first} {action}".split()[1:]
            with contextlib.suppress(SystemExit):
                assert main([*words, "--help"]) == 0
            assert f"usage: bardlet {' '.join(words)}".rstrip() in capsys.readouterr().out


def test_extras_that_pages_name_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for one in SHOWN:
        for extra in re.findall(r"bardlet\[([a-z]+)\]", one.command):
            assert extra in project["optional-dependencies"]


# --- benchmarks, recipes and make


def words_of(command: str, folder: Path) -> list[str]:
    """The words of a benchmark's command, with a peer and a text in `folder`, and smaller ones."""
    replaced = {"PATH_TO_NANOGPT": str(folder / "peer"), "FILE": "plays.txt", "TEXTS": "plays.txt"}
    words = [replaced.get(word, word) for word in shlex.split(command)[1:]]
    if "--text" not in words:
        words += ["--text", "plays.txt"]
    if "--peer" not in words and script(command) not in ALONE:
        words += ["--peer", str(folder / "peer")]
    return [str(ROOT / words[0]), *words[1:], *BENCH[script(command)]]


def test_every_benchmark_has_a_small_case() -> None:
    scripts = {path.stem for path in (ROOT / "bench").glob("*.py")
               if "common.arguments(" in path.read_text(encoding="utf-8")}  # fmt: skip
    assert scripts == BENCH.keys()
    assert {one.command.split()[0] for one in every.BENCHMARKS.values()} == every.SMALL.keys()


def test_every_benchmark_of_the_readme_is_among_those_of_one_command() -> None:
    def options(command: str) -> tuple[str, str]:
        """The script, and the options that say what it measures."""
        command = re.sub(r" --(peer PATH_TO_NANOGPT|text FILE)(?= |$)", "", command)
        return script(command), " ".join(command.split()[2:])

    among = [options(every.command(name)) for name in every.BENCHMARKS]
    for one in SHOWN:
        if one.page == "README.md" and way(one) == "bench":
            name, asked = options(one.command)
            assert any(name == other and asked in measured for other, measured in among), one


@pytest.mark.parametrize("command", BENCHES)
def test_a_benchmarks_command_is_one(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its options exist: the script's parser takes them."""

    class ParsedError(Exception):
        pass

    def parse(self: argparse.ArgumentParser, args: list[str] | None = None) -> None:
        assert original(self, args)
        raise ParsedError

    original = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.syspath_prepend(ROOT / "bench")
    monkeypatch.setattr(sys, "argv", words_of(command, tmp_path))
    with pytest.raises(ParsedError):
        runpy.run_path(sys.argv[0], run_name="__main__")


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [f"python bench/{name}.py" for name in sorted(BENCH.keys() - every.SMALL.keys())]
)
def test_a_benchmark_runs(command: str, folder: Path) -> None:
    fake_peer.make(folder / "peer")
    words = [*words_of(command, folder), "--out", "out.json"]
    # by a shell that does not become it: a peak of memory begins with that of the process before
    through_sh = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, *words]
    subprocess.run(through_sh, check=True, timeout=250)
    record = json.loads(Path("out.json").read_text(encoding="utf-8"))
    assert record["benchmark"] == script(command)
    assert record["runs"] and record["tables"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_benchmark_runs_in_one_command(folder: Path) -> None:
    """In small; all but those whose packages or browser are not installed here."""
    fake_peer.make(folder / "peer")
    command = [sys.executable, ROOT / "bench" / "all.py", "--quick", "--peer", folder / "peer"]
    subprocess.run([*command, "--text", "plays.txt"], check=True, timeout=880)
    parts = json.loads(Path("all-quick.json").read_text(encoding="utf-8"))["parts"]
    assert parts.keys() == every.BENCHMARKS.keys()
    for name, part in parts.items():
        if part["status"] == "ok":
            assert part["record"]["runs"] and part["record"]["tables"], name
    assert sum(part["status"] == "ok" for part in parts.values()) >= 16


@pytest.mark.slow
def test_a_visit_to_a_gpu_walks_through_every_part(tmp_path: Path) -> None:
    """On the CPU and in small, with a peer; the results of each part are in the record."""
    peer = fake_peer.make(tmp_path / "peer")
    command = [sys.executable, ROOT / "bench" / "gpu.py", "--device", "cpu", "--quick"]
    subprocess.run([*command, "--peer", peer], cwd=tmp_path, check=True, timeout=290)
    record = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert {part: entry["status"] for part, entry in record["parts"].items()} == dict.fromkeys(
        ("machine", "tests", "classic", "time_to_loss", "throughput", "techniques", "sampling",
         "plan", "peer_classic", "peer_throughput", "peer_sampling"), "ok",
    )  # fmt: skip
    assert all(entry["results"] for entry in record["parts"].values())
    best = record["parts"]["classic"]["results"][-1]
    assert best["best_val_loss"] > 0 and best["ms_per_iteration"] > 0


def test_sample_speeds_model_can_be_sampled_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the benchmark makes for itself is a run that `bardlet sample` opens."""
    monkeypatch.syspath_prepend(ROOT / "bench")
    from sample_speed import MAKE, SHAPES

    monkeypatch.setattr(sys, "argv", ["-c", str(tmp_path / "run"), SHAPES["0.8M"].model])
    exec(MAKE, {})
    assert main(["sample", str(tmp_path / "run"), "--json", *SHORT.split()]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["tokens_per_s"] > 0


def test_make_docs_writes_the_page(tmp_path: Path) -> None:
    """On a copy, without the page."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "generate_cli.py", tmp_path / "docs")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["make", "docs"], cwd=tmp_path, check=True, env={**os.environ, "PATH": path})
    page = (tmp_path / "docs" / "cli.md").read_text(encoding="utf-8")
    assert all(f"## bardlet {command}\n" in page for command in COMMANDS)


def test_the_rooms_are_counted() -> None:
    script = ROOT / "tests" / "rooms.py"
    out = subprocess.run([sys.executable, script], check=True, capture_output=True, text=True)
    assert re.search(r"\d+ rooms, \d+ arrows between them, [\d,]+ lines", out.stdout)


def test_recipes_have_a_test() -> None:
    names = sorted(path.name for path in (ROOT / "recipes").iterdir())
    assert names == ["datatrove_prepare.py", "launch"]  # the latter's: whole/test_launching.py


@pytest.mark.slow
def test_the_recipe_with_datatrove_makes_a_dataset(folder: Path) -> None:
    pytest.importorskip("datatrove")
    Path("raw").mkdir()
    documents = [{"text": text} for text in Path("plays.txt").read_text("utf-8").split("\n\n")]
    lines = [f"{json.dumps(document)}\n" for document in documents]
    Path("raw/a.jsonl").write_text("".join(lines[::2]), encoding="utf-8")
    Path("raw/b.jsonl").write_text("".join(lines[1::2]), encoding="utf-8")
    run("bardlet tokenizer train plays.txt --vocab_size 300 --out tokenizer.json")
    recipe = [ROOT / "recipes" / "datatrove_prepare.py", "raw", "tokenizer.json", "data/mine"]
    subprocess.run([sys.executable, *recipe, "--tasks", "2"], check=True, timeout=250)
    kept = [document for document in documents if len(document["text"]) >= 50]
    manifest = json.loads(Path("data/mine/manifest.json").read_text(encoding="utf-8"))
    assert sum(split["documents"] for split in manifest["splits"].values()) == len(kept)
