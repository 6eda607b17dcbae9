"""The page of runs in a browser: from a file, and from a server while a run trains."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from browsing import Visitor
from serve_support import Served, byte_model

from bardlet import cli
from bardlet.report import runs, site

ATTACK = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
FACTS = {"time_ms": 50.0, "lr": 1e-3, "grad_norm": 0.5, "tokens_per_s": 9e3, "mfu": 0.3}


def write_lines(folder: Path, first: int, last: int) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        for it in range(first, last):
            loss = 1.5 + 2.6 * math.exp(-it / 20)
            line = {"type": "iter", "iter": it, "loss": loss, "tokens": (it + 1) * 64, **FACTS}
            file.write(json.dumps(line) + "\n")
            if it % 20 == 0:
                scores = {"train_loss": loss, "val_loss": loss + 0.1, "bits_per_byte": 2.0}
                file.write(json.dumps({"type": "eval", "iter": it, **scores}) + "\n")


def a_run(folder: Path, **options: Any) -> Path:
    folder.mkdir(parents=True)
    start = {"type": "start", "iter": 0, "vocab_size": 65, "params": 1234, "device": "cpu"}
    (folder / "metrics.jsonl").write_text(json.dumps(start) + "\n")
    options = {"n_layer": 2, "max_iters": 100, **options}
    text = "".join(f"{k} = {json.dumps(v)}\n" for k, v in options.items())
    (folder / "config.toml").write_text(text)
    write_lines(folder, 0, 60)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs in out/, one of them full of markup, and a report of both."""
    path = tmp_path_factory.mktemp("runs")
    a_run(path / "out" / "first")
    hostile = a_run(path / "out" / "<b>hostile", n_layer=4, dataset=ATTACK)
    event = {"type": "event", "iter": 30, "event": "spike", "loss": 3.0}
    odd = [{"type": "event", "iter": 31, "event": name} for name in (ATTACK, "constructor")]
    with (hostile / "metrics.jsonl").open("a") as file:
        file.writelines(f"{json.dumps(line)}\n" for line in (event, *odd))
    with (hostile / "samples.jsonl").open("w") as file:
        for it in (0, 20, 40):
            record = {"iter": it, "prompt": ATTACK, "text": f"after {it} {ATTACK}"}
            file.write(json.dumps(record) + "\n")
    os.utime(path / "out" / "first" / "metrics.jsonl", (1e9, 1e9))
    with contextlib.chdir(path):
        assert cli.main(["report", "--out", "report.html"]) == 0
    return path


@pytest.fixture
def url(folder: Path) -> str:
    return (folder / "report.html").as_uri()


def test_a_report_shows_its_runs(url: str, visit: Visitor) -> None:
    page = visit(url)
    assert page.locator("h1").inner_text() == "Runs"
    assert page.locator(".chart-large path.smooth").count() == 2
    assert page.locator(".chart-large circle.val").count() == 2 * 3
    assert page.locator("text.level").all_text_contents() == ["equal chances, ln 65: 4.174"]
    assert page.locator("figure:visible").count() == 4  # no time was spent waiting for batches
    names = page.locator(".differences tbody th").all_inner_texts()
    assert names == ["n_layer", "dataset", "best validation", "iterations"]


def test_controls_change_the_curves(url: str, visit: Visitor) -> None:
    page = visit(url)
    path = page.locator(".chart-large path.smooth").first
    shapes = [path.get_attribute("d")]
    page.locator("#x").select_option("tokens")
    assert page.locator(".chart-large .name").text_content() == "tokens"
    for box in ("#log", "#logX"):
        page.locator(box).check()
        shapes.append(path.get_attribute("d"))
    page.locator("#smooth").fill("0.9")
    shapes.append(path.get_attribute("d"))
    assert len(set(shapes)) == 4
    page.locator("#run-0").uncheck()
    assert page.locator(".chart-large path.smooth").count() == 1
    assert not page.locator(".differences").is_visible()


def test_a_csv_has_the_points(url: str, visit: Visitor) -> None:
    page = visit(url)
    with page.expect_download() as download:
        page.locator("#csv").click()
    head, *rows = Path(download.value.path()).read_text("utf-8").splitlines()
    assert head.startswith("run,iter,tokens,seconds,loss,lr,grad_norm")
    assert len(rows) == 2 * (60 + 3)
    first = next(row for row in rows if row.startswith('"out/first",10,'))
    cells = first.split(",")
    assert float(cells[2]) == 640 and float(cells[3]) == pytest.approx(0.5)
    assert float(cells[4]) == pytest.approx(1.5 + 2.6 * math.exp(-0.5), rel=1e-5)


def test_text_of_runs_injects_nothing(url: str, visit: Visitor) -> None:
    page = visit(url)
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.locator("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    shown = page.locator("#report").inner_text()
    assert shown.count(ATTACK) >= 4 and "<b>hostile" in shown  # as the text that it is
    assert page.locator("#report img, #report script, #report b b").count() == 0
    assert page.title() == "Runs" and asked == []


def test_samples_are_chosen_by_a_slider(url: str, visit: Visitor) -> None:
    page = visit(url)
    slider = page.locator(".samples input[type=range]")
    assert page.locator(".samples output").inner_text() == "after 40 iterations"
    slider.focus()
    page.keyboard.press("Home")
    assert page.locator(".samples output").inner_text() == "after 0 iterations"
    assert "after 0 " in page.locator(".samples pre").inner_text()


def test_all_can_be_done_by_keyboard(url: str, visit: Visitor) -> None:
    """From the top of the page to the chart by Tab alone, then along the curve."""
    page = visit(url)
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        if reached[-1] == "svg":
            break
    assert reached == ["language", "theme", "run-0", "run-1", "x", "log", "logX", "smooth", "reset",
                       "csv", "print", "svg"]  # fmt: skip
    readout = page.locator(".readout").first
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert readout.inner_text().startswith("iterations 1")
    before = page.locator(".chart-large .axis").text_content()
    page.keyboard.press("+")
    assert page.locator(".chart-large .axis").text_content() != before
    page.keyboard.press("0")
    assert page.locator(".chart-large .axis").text_content() == before
    page.keyboard.press("Escape")
    assert readout.inner_text() == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_in_chinese_in_light_and_dark(scheme: Any, url: str, visit: Visitor) -> None:
    page = visit(
        url, viewport={"width": 360, "height": 740}, color_scheme=scheme, locale="zh-CN",
        has_touch=True,
    )  # fmt: skip
    assert page.locator("h1").inner_text() == "训练记录"
    assert page.evaluate("document.documentElement.scrollWidth") <= 360

    def brightness() -> float:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, colour[4:-1].split(",")[:3])) / 3

    assert (brightness() < 60) == (scheme == "dark")
    page.locator("#theme").click()
    assert (brightness() < 60) == (scheme != "dark")
    page.locator("#language").click()
    assert page.locator("h1").inner_text() == "Runs"


def test_on_paper_there_are_no_buttons(url: str, visit: Visitor) -> None:
    page = visit(url, color_scheme="dark")
    page.emulate_media(media="print")
    assert not page.locator("#csv").is_visible() and page.locator(".chart-large svg").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """The folder of a server's runs, which is empty, and the address of its page."""
    server = site.server(site.Site(lambda: runs.find(tmp_path / "out")), 0)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield tmp_path / "out", f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_run_appears_and_grows_while_it_trains(served: tuple[Path, str], visit: Visitor) -> None:
    out, address = served
    page = visit(address)
    page.locator(".status", has_text="No runs here yet").wait_for()
    folder = a_run(out / "live")
    page.get_by_text("60 / 100").first.wait_for()  # it may have been read half written before
    page.wait_for_selector(".chart-large path.smooth")
    assert page.locator(".runs").inner_text().startswith(f"{folder} training, 60 / 100")
    page.locator("#x").focus()
    write_lines(folder, 60, 90)
    page.get_by_text("90 / 100").first.wait_for()
    assert page.evaluate("document.activeElement.id") == "x"


def test_a_server_of_models_has_the_page_behind_its_key(
    tmp_path: Path, visit: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page itself is open; its values are not."""
    monkeypatch.chdir(tmp_path)
    a_run(tmp_path / "out" / "mine")
    server = Served(byte_model(), key="secret")
    try:
        assert server.ask("GET", "/runs")[0] == 200
        for path in ("/runs/list.json", "/runs/run.json?name=out/mine"):
            assert server.ask("GET", path)[0] == 401
        assert server.ask("GET", "/runs/list.json", authorization="Bearer secret")[0] == 200
        assert server.ask("GET", "/runs/x.json", authorization="Bearer secret")[0] == 404
        assert server.ask("GET", "/runs", host="evil.example")[0] == 403
        page = visit(f"http://127.0.0.1:{server.port}/runs")
        page.locator("#key").fill("secret")
        page.keyboard.press("Enter")
        page.wait_for_selector(".chart-large path.smooth")
        visit.complaints.remove(next(text for text in visit.complaints if "401" in text))
    finally:
        server.close()
