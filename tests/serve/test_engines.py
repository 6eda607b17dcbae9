"""Engines that come and go: several models in little memory, a run that trains on, their counts."""

from __future__ import annotations

import asyncio
import re
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from serve_support import Served, byte_model

import bardlet
from bardlet.run import run_folder
from bardlet.serve import engines as engines_module
from bardlet.serve.engine import Engine, Job
from bardlet.serve.engines import Engines, Follower
from bardlet.serve.model import Model


def test_the_least_recently_used_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is room for two of them; one that writes stays, whatever is asked for."""
    model = byte_model()
    models = {name: lambda: Engine(model, 2, 2) for name in "abcd"}
    engines = Engines(models, dict.fromkeys("abcd", 1.0))
    monkeypatch.setattr(engines_module, "available", lambda: 2.0 - len(engines.loaded))

    async def ask(names: str) -> str:
        for name in names:
            await engines.get(name)
        return "".join(engines.loaded)

    assert asyncio.run(ask("ab")) == "ab"
    assert asyncio.run(ask("ac")) == "ac"  # b was asked for before a
    busy = engines.loaded["a"]
    busy.submit(Job([model.request("A", max_new_tokens=100_000)] * 2, lambda event: None))
    assert asyncio.run(ask("cd")) == "ad"
    assert asyncio.run(ask("b")) == "ab" and engines.loaded["a"] is busy
    assert engines.past.failures == 0
    engines.close()


def another(run: Path) -> Path:
    """A further checkpoint of a run, with the weights of the one before."""
    newest = run_folder.newest(run)
    folder = newest.with_name(run_folder.name_of(run_folder.iter_of(newest) + 1))
    shutil.copytree(newest, folder)
    run_folder.set_pointer(run, "last", folder)
    return folder


def test_a_run_that_trains_on_is_answered_from_its_newest(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that is being written ends as it began, and its engine is closed afterwards."""
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)

    def load() -> Engine:
        return Engine(bardlet.load(run, checkpoint="last", dtype="float32"), 2, 2)

    engines = Engines({"run": load})
    before = engines.load("run")
    lines: list[str] = []
    follower = Follower(engines, {"run": run}, "last", lines.append)
    follower.look("run", run)
    assert engines.loaded["run"] is before and not lines
    done = threading.Event()
    request = before.model.request("All:", max_new_tokens=3000, seed=1)
    job = Job([request], lambda event: done.set(), whole=True)
    before.submit(job)
    newest = another(run)
    follower.look("run", run)
    after = engines.loaded["run"]
    assert after is not before and Path(after.model.trained.source).name == newest.name
    assert lines == [f"run is answered by {newest.name} from now on"]
    monkeypatch.setattr(engines_module, "GRACE_S", 0.0)
    engines.end_retired()
    assert before.thread.is_alive() or done.is_set()
    assert done.wait(240) and job.completions[0].finish_reason == "length"
    until = time.monotonic() + 60
    while before.thread.is_alive() and time.monotonic() < until:
        engines.end_retired()
        time.sleep(0.01)
    assert not before.thread.is_alive() and not engines.retired
    damaged = another(run)
    (damaged / "model.safetensors").write_bytes(b"")
    follower.look("run", run)
    follower.look("run", run)
    assert engines.loaded["run"] is after
    assert len(lines) == 2 and f"goes on with the checkpoint before {damaged.name}" in lines[1]
    engines.close()


def values(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"(?m)^([a-z_]\S*) (\S+)$", text)}


def test_metrics_count_what_was_written(model: Model) -> None:
    one = Served(model, options={"metrics": True}, key="secret")
    try:
        assert one.ask("GET", "/metrics")[0] == 401
        url = f"http://127.0.0.1:{one.port}/v1"
        client = openai.OpenAI(base_url=url, api_key="secret", max_retries=0)
        prompt = len(model.prompt("All:"))
        for n in (1, 3):
            client.completions.create(model="play", prompt="All:", max_tokens=7, n=n)
        stream = client.completions.create(
            model="play", prompt="All:", max_tokens=9, logprobs=0, stream=True
        )
        list(stream)
        assert one.idle()
        status, raw, headers = one.ask("GET", "/metrics", authorization="Bearer secret")
        got: dict[str, Any] = values(raw.decode())
        assert status == 200 and headers["content-type"].startswith("text/plain; version=")
        assert got["bardlet_texts_total"] == 5
        assert got["bardlet_prompt_tokens_total"] == 5 * prompt
        assert got["bardlet_generated_tokens_total"] == 4 * 7 + 9
        assert (got["bardlet_running"], got["bardlet_waiting"]) == (0, 0)
        assert got['bardlet_first_token_seconds_bucket{le="+Inf"}'] == 5
        assert 0 < got["bardlet_first_token_seconds_sum"] < 60
    finally:
        one.close()


def test_without_the_flag_there_are_no_metrics(model: Model) -> None:
    one = Served(model)
    try:
        assert one.ask("GET", "/metrics")[0] == 404
    finally:
        one.close()
