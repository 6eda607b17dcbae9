"""lm-evaluation-harness gives the same scores: on an export, and against the server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, some_text, tiny_config

from bardlet import cli
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text.corpus import Corpus
from bardlet.train import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of lm_eval and of what it brings
]
pytest.importorskip("lm_eval")

CONTEXT = {"char": 192, "bpe": 48}  # the short tasks fit, the long one does not
TASK = """
task: mine_NAME
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
"""
MC = (
    TASK
    + """
output_type: multiple_choice
doc_to_text: context
doc_to_target: answer
doc_to_choice: choices
metric_list: [{metric: acc}, {metric: acc_norm}, {metric: acc_bytes}]
"""
)
CLOZE = (
    TASK
    + """
output_type: loglikelihood
doc_to_text: "{{text.split(' ')[:-1]|join(' ')}}"
doc_to_target: "{{' '+text.split(' ')[-1]}}"
metric_list: [{metric: acc}, {metric: perplexity}]
"""
)
EVALUATE = """
import json, sys
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
model, args, folder, out, *tasks = sys.argv[1:]
found = simple_evaluate(
    model=model, model_args=json.loads(args), tasks=tasks, batch_size=4,
    task_manager=TaskManager(include_path=folder, include_defaults=False), device="cpu",
    bootstrap_iters=1000,
)
open(out, "w").write(json.dumps(found["results"]))
"""


@pytest.fixture(scope="module", params=["char", "bpe"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run with an export beside it, and the tasks."""
    folder = tmp_path_factory.mktemp(request.param)
    text = some_text(20_000)
    corpus = Corpus(name="words", text=text, sources=())
    size = 300 if request.param == "bpe" else 0
    prepare(corpus, folder / "data", tokenizer=request.param, vocab_size=size)
    changes: dict[str, Any] = {
        "block_size": CONTEXT[request.param],
        "max_iters": 80,
        "eval_interval": 80,
    }
    train(tiny_config(folder / "data", folder / "run", **changes))
    assert cli.main(["export", str(folder / "run"), str(folder / "hf")]) == 0
    words = some_text(30_000, seed=9).split(" ")
    choices, clozes, long = [], [], []
    for i in range(60):
        part = words[i * 40 : i * 40 + 40]
        options = [" ".join(part[20 : 21 + i % 3]), " ".join(part[30 : 32 + i % 4])]
        if options[0] == options[1]:
            options[1] += " be"
        context = " ".join(part[: 3 + i % 16]) + " " * (i % 5 == 0)
        choices.append({"context": context, "choices": options, "answer": i % 2})
        clozes.append({"text": " ".join(part[: 4 + i % 20])})
        long.append({**choices[-1], "context": " ".join(words[i : i + 60])})
    for name, rows, yaml in (("mc", choices, MC), ("cloze", clozes, CLOZE), ("long", long, MC)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (folder / f"{name}.yaml").write_text(
            yaml.replace("FILE", str(path)).replace("NAME", name), encoding="utf-8"
        )
    return folder


def harness(folder: Path, kind: str, tasks: list[str], /, **args: Any) -> dict[str, dict[str, Any]]:
    out = folder / f"{kind}.json"
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"),
        "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    command = [sys.executable, "-c", EVALUATE, kind, json.dumps(args), str(folder), str(out),
               *(f"mine_{task}" for task in tasks)]  # fmt: skip
    subprocess.run(command, check=True, env=environment, timeout=280)
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ours(run: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "bardlet", "eval", str(run / "run"), "--json",
               "--task", str(run / "mc.jsonl"), "--task", str(run / "cloze.jsonl"),
               "--task", str(run / "long.jsonl")]  # fmt: skip
    out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return {task["task"]: task for task in json.loads(out.stdout)["tasks"]}


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "bardlet", "serve", str(run / "run"), "--port=0",
               "--device=cpu", "--dtype=float32"]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        address = ""
        for line in process.stderr:
            if "http://" in line:
                address = "http://" + line.split("http://")[1].split()[0].rstrip(";")
                break
        yield address.removesuffix("/v1")
        process.terminate()


def same(ours: dict[str, Any], theirs: dict[str, dict[str, Any]], perplexity: float) -> None:
    """Accuracies and their errors are equal, perplexities within a share."""
    for task in ("mc", "long"):
        for name in ("acc", "acc_norm", "acc_bytes"):
            for score in (name, f"{name}_stderr") if f"mine_{task}" in theirs else ():
                found = theirs[f"mine_{task}"][f"{score},none"]
                assert found == pytest.approx(ours[task][score], abs=1e-9), (task, score)
    cloze = theirs["mine_cloze"]
    assert cloze["acc,none"] == pytest.approx(ours["cloze"]["acc"], abs=1e-9)
    assert cloze["acc_stderr,none"] == pytest.approx(ours["cloze"]["acc_stderr"], abs=1e-9)
    assert cloze["perplexity,none"] == pytest.approx(ours["cloze"]["perplexity"], rel=perplexity)
    # theirs is a bootstrap of 1,000
    stderr = ours["cloze"]["perplexity_stderr"]
    assert cloze["perplexity_stderr,none"] == pytest.approx(stderr, rel=0.2)


def test_on_the_export(run: Path, ours: dict[str, Any]) -> None:
    assert ours["long"]["cut"] == 60 and ours["mc"]["cut"] == ours["cloze"]["cut"] == 0
    theirs = harness(
        run, "hf", ["mc", "cloze", "long"], pretrained=str(run / "hf"), dtype="float32"
    )
    # an export of characters has one token more, as likely as the mean of all logits
    same(ours, theirs, perplexity=2e-2 if run.name.startswith("char") else 1e-4)


def test_against_the_server(run: Path, ours: dict[str, Any], server: str) -> None:
    """On what the model sees at once: beyond, the harness cuts one token more for a server."""
    theirs = harness(
        run, "local-completions", ["mc", "cloze"], model="run", base_url=f"{server}/v1/completions",
        tokenizer=str(run / "hf"), tokenizer_backend="huggingface", num_concurrent=1,
        max_length=1 + CONTEXT[run.name[:-1]], tokenized_requests=False,
    )  # fmt: skip
    same(ours, theirs, perplexity=1e-4)
