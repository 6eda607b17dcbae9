"""Runs as JSON values: a real one, one that is still beginning, and ones that are damaged."""

from __future__ import annotations

import json
import os
import shlex
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from support import RUN, Refused

from bardlet import cli
from bardlet.report import runs, site
from bardlet.report.files import command as command_of
from bardlet.report.runs import Run


def lines(path: Path, kind: str) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [entry for entry in entries if entry["type"] == kind]


def test_a_run_is_what_its_files_say(sent: Path) -> None:
    run = Run(RUN).described()
    iters, evals = (lines(RUN / "metrics.jsonl", kind) for kind in ("iter", "eval"))
    assert run["state"] == "finished" and run["notes"] == [] and run["done"] == 2
    assert run["series"]["loss"]["x"] == [0, 1]
    assert run["series"]["loss"]["mean"] == pytest.approx([e["loss"] for e in iters], rel=1e-5)
    assert run["evals"][-1]["val_loss"] == evals[-1]["val_loss"]
    assert run["axis"]["done"] == [0, 1, 2]
    assert run["axis"]["tokens"] == [0, *(e["tokens"] for e in iters)]
    seconds = [0, iters[0]["time_ms"] / 1000, sum(e["time_ms"] for e in iters) / 1000]
    assert run["axis"]["seconds"] == pytest.approx(seconds, rel=1e-5)
    assert run["checkpoints"] == {"kept": [2], "best": 2} and run["events"][-1]["event"] == "saved"
    assert run["config"]["n_embd"] == 64 and "n_embd" in run["changed"]
    assert "beta1" not in run["changed"]
    assert run["saved"]["versions"].keys() == {"bardlet", "python", "torch"}
    assert run["data"]["splits"]["train"]["characters"] > 5000
    assert [line["kind"] for line in run["reference"]][:2] == ["uniform", "unigram"]
    json.dumps(run, allow_nan=False)


def test_the_command_trains_the_same_again(sent: Path) -> None:
    command = shlex.split(Run(RUN).described()["command"])
    assert command[0] == "bardlet" and cli.main(command[1:]) == 0
    first, again = (lines(run / "metrics.jsonl", "iter") for run in (RUN, Path(f"{RUN}-again")))
    assert [e["loss"] for e in first] == [e["loss"] for e in again]
    resumed = command_of(RUN, {"init_from": "resume"}, {"processes": 2})
    assert resumed == (
        "torchrun --nproc_per_node=2 -m bardlet train out/a/config.toml --out_dir=out/a-again "
        "--init_from=scratch"
    )


def test_a_run_goes_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    """Half a folder, then lines, then silence."""
    folder = tmp_path / "out" / "a"
    folder.mkdir(parents=True)
    assert list(runs.find(tmp_path / "out")) == []
    (folder / "checkpoints").mkdir()
    assert list(runs.find(tmp_path / "out")) == [folder]
    run = Run(folder)
    begun = run.described()
    assert begun["state"] == "starting" and len(begun["notes"]) == 2
    assert begun["series"]["loss"]["x"] == [] and begun["axis"]["done"] == [0]
    version = run.version
    with (folder / "metrics.jsonl").open("w") as file:
        for it in range(30):
            file.write(json.dumps({"type": "iter", "iter": it, "loss": 3.0}) + "\n")
    assert run.version != version
    training = run.described()
    assert training["state"] == "training" and training["lines"] == training["done"] == 30
    assert "does not say how long" in training["notes"][0]
    os.utime(folder / "metrics.jsonl", (0, 0))
    assert run.described()["state"] == "stopped"


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("metrics.jsonl", b"\xff\xfe\x00\n" * 3, "3 damaged lines of metrics.jsonl are left out"),
        ("metrics.jsonl", None, "metrics.jsonl cannot be read"),
        ("config.toml", b"a = [", "config.toml cannot be read"),
        ("config.toml", b"a = " + b"[" * 5000, "config.toml cannot be read"),
        ("config.toml", b"#" * (1 << 18), "config.toml cannot be read: "),
        ("config.toml", None, "there is no config.toml"),
        ("samples.jsonl", b'{"iter": 1, "prompt": 2}\n[1]\nx', ""),
        ("checkpoints/last", b"../../elsewhere", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_and_the_rest_shown(
    name: str, content: bytes | None, note: str, sent: Path
) -> None:
    path = RUN / name
    path.unlink() if content is None else path.write_bytes(content)
    run = Run(RUN).described()
    assert note in "; ".join(run["notes"]) and bool(run["notes"]) == bool(note)
    assert run["saved"]["iter"] == 2
    json.dumps(run, allow_nan=False)


def test_samples_are_bounded(tmp_path: Path) -> None:
    record = {"prompt": "p" * 9000, "text": "t" * 9000}
    with (tmp_path / "samples.jsonl").open("w") as file:
        for it in range(200):
            file.write((json.dumps({"iter": it, **record}) + "\n") * 2)
    (tmp_path / "metrics.jsonl").touch()
    run = Run(tmp_path).described()
    assert len(run["samples"]) == 60 and run["samples"][0]["iter"] == 0
    assert run["samples"][-1]["iter"] == 199 and len(run["samples"][0]["texts"]) == 2
    assert len(run["samples"][0]["texts"][0]["text"]) == 4000
    assert "samples of 140 of the iterations are left out" in run["notes"]


def test_the_doctor_sees_long_runs_as_they_are(tmp_path: Path) -> None:
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for it in range(12_000):
            loss = 4.0 * 0.999**it + 1.0
            file.write(json.dumps({"type": "iter", "iter": it, "loss": loss, "lr": 1e-3}) + "\n")
            if it % 3000 == 0:
                scores = {"train_loss": loss, "val_loss": 2.0 + it / 12_000}
                file.write(json.dumps({"type": "eval", "iter": it, **scores}) + "\n")
    (found,) = Run(tmp_path).described()["findings"]
    assert found["illness"] == "overfitting" and found["iter"] == 0


def test_a_file_has_all_of_it(sent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "--out", "report.html"]) == 0
    text = Path("report.html").read_text(encoding="utf-8")
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert [run["name"] for run in data["runs"]] == ["out/a"]
    assert len(text) - len(json.dumps(data)) < 300_000
    assert "http" not in text.split("<script")[0].replace("http-equiv", "")


def test_what_cannot_be_done_is_said(tmp_path: Path, refused: Refused, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert "there are no runs in out/" in refused("report", "--out", "a.html")
    assert "no run at nowhere" in refused("report", "nowhere", "--out", "a.html")
    assert "not the name of a file" in refused("report", "--out=", code=2)
    assert "port=99999 must be" in refused("report", "--port=99999", code=2)
    Path("out/a").mkdir(parents=True)
    Path("out/a/metrics.jsonl").touch()
    assert "cannot write none/a.html" in refused("report", "--out", "none/a.html")
    assert cli.main(["report", "out/a/metrics.jsonl", "--out", "a.html"]) == 0


def test_the_server_answers_itself_alone(sent: Path) -> None:
    """Another Host, and names that are no run in the list, get nothing."""
    server = site.server(site.Site(lambda: runs.find(Path("out"))), 0)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def get(path: str, host: str = "127.0.0.1:1", method: str = "GET") -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
        connection.request(method, path, headers={"host": host})
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        if answer.status == 200:
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "script-src 'self'" in answer.headers["content-security-policy"]
        return answer.status, body

    try:
        assert [run["name"] for run in json.loads(get("/runs/list.json")[1])["runs"]] == ["out/a"]
        assert json.loads(get("/runs/run.json?name=out/a")[1])["state"] == "finished"
        assert get("/")[0] == get("/runs", "localhost")[0] == get("/web/report.js", "[::1]:9")[0]
        for host in ("evil.example", "127.0.0.1.evil.example:80", ""):
            assert get("/runs/list.json", host)[0] == 403
        names = ("..%2Fa", "", "/etc", "out", "out/a/checkpoints")
        others = ("/web/page.py", "/web/..%2Fcli.py", "/web/../page.py", "/nothing", "/runs/")
        for path in (*(f"/runs/run.json?name={name}" for name in names), *others):
            assert get(path)[0] == 404, path
        assert get("/runs", method="POST")[0] == 501
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_taken_port_is_said(refused: Refused, sent: Path) -> None:
    server = site.server(site.Site(list), 0)
    try:
        assert "cannot listen on port" in refused("report", f"--port={server.server_address[1]}")
    finally:
        server.server_close()
