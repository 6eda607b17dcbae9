"""Headless Chromium, as a check of pages: opens a file and evaluates expressions in it.

It is driven through its DevTools pipe, JSON between two file descriptors, so no package is needed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VARIABLE = "BARDLET_BROWSER"  # in the environment: the program, where it is not on PATH
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
         "microsoft-edge", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
         "/Applications/Chromium.app/Contents/MacOS/Chromium")  # fmt: skip
# The page is ours and asks for nothing. The sandbox needs rights that containers often lack, and
# their /dev/shm is too small.
ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--disable-extensions", "--disable-background-networking", "--no-first-run",
             "--remote-debugging-pipe")  # fmt: skip
TIMEOUT_S = 600.0  # for one answer


class ChromiumError(Exception):
    """The browser does not start, ends, or a page has an error; the message is why."""


def program() -> str | None:
    """The browser's program, None where there is none that can be driven."""
    if os.name != "posix":  # its pipe is of another kind elsewhere
        return None
    own = os.environ.get(VARIABLE)
    return next(filter(None, map(shutil.which, [own] if own else NAMES)), None)


@contextlib.contextmanager
def opened(path: str, page: Path, fragment: str = "") -> Iterator[Browser]:
    """The browser `path` with the file `page`, at a fragment of it; it is ended afterwards."""
    with tempfile.TemporaryDirectory(prefix="bardlet-", ignore_cleanup_errors=True) as profile:
        browser = Browser(path, profile)
        try:
            browser.visit(f"{page.resolve().as_uri()}#{fragment}")
            yield browser
        finally:
            browser.close()


class Browser:
    """A running browser with one page."""

    def __init__(self, path: str, profile: str) -> None:
        import fcntl

        self.calls, self.read = 0, b""
        theirs, self.to = os.pipe()
        self.come, ours = os.pipe()
        # numbers above 3 and 4, at which the browser expects them
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (theirs, ours)]
        try:
            self.process = os.posix_spawn(
                path, [path, *ARGUMENTS, f"--user-data-dir={profile}"], os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, ends[0], 3), (os.POSIX_SPAWN_DUP2, ends[1], 4),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                ],
                setpgroup=0,
            )  # fmt: skip
        except OSError as error:
            os.close(self.to)
            os.close(self.come)
            raise ChromiumError(f"{path} does not start: {error.strerror}") from None
        finally:
            for end in (theirs, ours, *ends):
                os.close(end)

    def visit(self, url: str) -> None:
        """Open a page in a tab of its own."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = {"targetId": target, "flatten": True}
        self.session = self.call("Target.attachToTarget", attached)["sessionId"]
        self.call("Page.enable")
        wrong = self.call("Page.navigate", {"url": url}).get("errorText")
        if wrong:
            raise ChromiumError(f"the page does not open: {wrong}")
        self.wait("Page.loadEventFired")

    def evaluate(self, expression: str) -> Any:
        """The JSON value of an expression, awaited where it is a promise."""
        asked = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        answer = self.call("Runtime.evaluate", asked)
        if wrong := answer.get("exceptionDetails"):
            thrown = wrong.get("exception", {})
            message = thrown.get("description") or thrown.get("value") or wrong.get("text", "")
            raise ChromiumError(str(message).partition("\n")[0][:500])
        return answer["result"].get("value")

    def call(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """The result of a method of the DevTools protocol."""
        self.calls += 1
        message = {"id": self.calls, "method": method, "params": params or {}}
        if session := getattr(self, "session", None):
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        try:
            while data:
                data = data[os.write(self.to, data) :]
        except BrokenPipeError:
            raise ChromiumError("the browser ended") from None
        answer = self.wait("", self.calls)
        if "error" in answer:
            raise ChromiumError(f"{method}: {answer['error'].get('message')}")
        return answer["result"]

    def wait(self, event: str, call: int = 0) -> dict[str, Any]:
        """The next message that is of an event, or that answers a call."""
        end = time.monotonic() + TIMEOUT_S
        while True:
            raw, nul, rest = self.read.partition(b"\0")
            if nul:
                self.read = rest
                message = json.loads(raw)
                if message.get("method") == "Inspector.targetCrashed":
                    raise ChromiumError("the page ran out of memory, or crashed")
                if message.get("method") == event or (call and message.get("id") == call):
                    return message
                continue
            if not select.select([self.come], [], [], max(0.0, end - time.monotonic()))[0]:
                raise ChromiumError(f"the page has not answered in {TIMEOUT_S:.0f} s")
            more = os.read(self.come, 1 << 20)
            if not more:
                raise ChromiumError("the browser ended")
            self.read += more

    def close(self) -> None:
        """End the browser and all its processes."""
        os.close(self.to)
        os.close(self.come)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.process, 0)
