"""Writes docs/pictures/ from a run: the pages of a server, as headless Chromium shows them.

    python docs/generate_pictures.py [RUN]

RUN is out/demo, which `bardlet demo` makes; playwright and Chromium must be installed. The page of
runs shows all of the folder out, and samples of those that were trained with --sample_interval.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from bardlet.interop.html import chromium

FOLDER = Path(__file__).with_name("pictures")
MAX_BYTES = 200_000
WIDE = {"width": 1240, "height": 860}
ROWS = ".counted .candidates button"


def write(page: Any) -> None:
    """Have the playground write on, and wait until it has."""
    page.click("button.primary")
    page.wait_for_selector(".playground:not(.busy) .card .token >> nth=60")
    page.wait_for_selector(ROWS)


def light(page: Any) -> None:
    """Two texts side by side, and what else could stand in one place."""
    write(page)
    page.click(".token[data-at='19']")
    page.wait_for_selector(f"{ROWS}[aria-current=true]")
    page.locator(f"{ROWS}:not([aria-current])").first.click()
    write(page)
    page.hover(".card.active .token[data-at='11']")
    page.wait_for_selector(f"{ROWS}[aria-current=true]")
    page.wait_for_timeout(500)
    page.screenshot(path=FOLDER / "playground.png")


def dark(page: Any) -> None:
    """Where one head of one layer looks."""
    write(page)
    page.click(".attention summary")
    page.click("button[aria-label='Layer 2, head 2']")
    page.locator(".strip .token").nth(-12).hover()
    page.wait_for_timeout(500)
    page.locator(".writing-side").screenshot(path=FOLDER / "attention.png")


def counts(page: Any) -> None:
    """Why a text goes on with "his": what model and training text say after "hi"."""
    page.click("button.end >> nth=1")
    page.wait_for_timeout(500)
    top, bottom = (page.locator(name).bounding_box() for name in (".candidates-panel", ".evidence"))
    clip = {**top, "height": bottom["y"] + bottom["height"] - top["y"]}
    page.screenshot(path=FOLDER / "counts.png", clip=clip, full_page=True)


def curves(page: Any) -> None:
    """The page of runs, down to what a model wrote."""
    page.wait_for_selector("text.level >> nth=2")  # what counting reaches is there
    page.set_viewport_size({**WIDE, "height": 980})
    page.wait_for_timeout(500)
    page.screenshot(path=FOLDER / "runs.png")


def main() -> None:
    from playwright.sync_api import sync_playwright

    run = (sys.argv[1:] or ["out/demo"])[0]
    command = [sys.executable, "-m", "bardlet", "serve", run, "--port=0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        lines = iter(server.stderr.readline, "")
        url = next(
            match[1] for line in lines if (match := re.search(r"playground at (\S+);", line))
        )
        with sync_playwright() as driver:
            browser = driver.chromium.launch(
                executable_path=chromium.program(), args=["--no-sandbox"]
            )
            for take, scheme in ((light, "light"), (dark, "dark"), (counts, "light")):
                page = browser.new_page(viewport=WIDE, color_scheme=scheme)  # pyright: ignore
                page.goto(f"{url}#prompt=ROMEO:%0AI think hi&length=120")
                page.wait_for_selector(ROWS)
                take(page)
            page = browser.new_page(viewport=WIDE)  # pyright: ignore
            page.goto(f"{url}runs")
            curves(page)
            browser.close()
    finally:
        server.terminate()
        server.wait()
    for path in FOLDER.glob("*.png"):
        assert path.stat().st_size <= MAX_BYTES, f"{path} has {path.stat().st_size:,} bytes"


if __name__ == "__main__":
    main()
