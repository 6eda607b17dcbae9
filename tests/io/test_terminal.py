"""What others wrote reaches a terminal as text, and a pipe as it is."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
from pytest import MonkeyPatch
from support import DATA, RUN, some_text

from bardlet import cli
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text.corpus import Corpus, Source
from bardlet.io import terminal
from bardlet.io.terminal import say
from bardlet.training.log import Log

ORDER = "\x1b]0;owned\x07"
HARMLESS = "tab\t new line\n caf\u00e9 \u4f60\u597d \U0001f600 \u0645\u0631\u062d a\u200db \u200f"
ORDERS = [chr(c) for c in (*range(32), 127, *range(128, 160), *range(0x202A, 0x202F),
                           *range(0x2066, 0x206A)) if chr(c) not in "\t\n"]  # fmt: skip


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_orders_are_spelt_out_on_a_terminal_only() -> None:
    assert terminal.shown("a\x1b[2Jb\u202ec\r\n", Screen()) == "a\\x1b[2Jb\\u202ec\\x0d\n"
    assert terminal.shown(ORDER, io.StringIO()) == ORDER
    assert terminal.shown(HARMLESS, Screen()) == HARMLESS
    shown = terminal.shown("".join(ORDERS), Screen())
    assert shown.isprintable() and shown.isascii()
    assert terminal.shown(shown, Screen()) == shown, "once is as good as twice"


def test_whatever_is_printed_in_a_command_is_guarded(monkeypatch: MonkeyPatch) -> None:
    out, err = Screen(), Screen()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with terminal.guarded():
        print(ORDER, flush=True)
        sys.stdout.writelines([ORDER])
        say(ORDER)
        assert terminal.beneath(sys.stdout) is out
        assert sys.stdout.isatty()
    assert (sys.stdout, sys.stderr) == (out, err)
    assert "\x1b" not in out.getvalue() + err.getvalue()
    assert out.getvalue().count("\\x1b]0;owned\\x07") == 2


def test_a_pipe_gets_what_was_printed(monkeypatch: MonkeyPatch) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="utf-8", newline="\n")
    monkeypatch.setattr(sys, "stdout", stream)
    with terminal.guarded():
        assert sys.stdout is stream
        print(ORDER + HARMLESS, end="", flush=True)
    assert raw.getvalue() == (ORDER + HARMLESS).encode()


def test_a_character_that_the_encoding_lacks_ends_no_command(monkeypatch: MonkeyPatch) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1", newline="\n")
    monkeypatch.setattr(sys, "stdout", stream)
    with terminal.guarded():
        print("caf\u00e9 \u4f60 \ud800", end="", flush=True)
    assert raw.getvalue() == b"caf\xe9 \\u4f60 \\ud800"


def test_a_log_line_under_the_progress_bar(
    sent: Path, monkeypatch: MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from support import tiny_config

    err = Screen()
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(sys, "stdout", Screen())  # of a terminal too: the log goes to stderr
    monkeypatch.setenv("TERM", "xterm")
    with terminal.guarded():
        log = Log(tiny_config(DATA, RUN), main=True)
        log.start_progress(0)
        log.advance(0, 1.0)
        log.say(f"saving to {ORDER}")
        say(f"warning: {ORDER}")
        log.close()
    written = err.getvalue()
    assert "\x1b]0;" not in written and "\x07" not in written
    assert written.count("\\x1b]0;owned\\x07") == 2
    assert "\x1b[" in written, "the bar's own orders go through"


def on_a_terminal(*args: str) -> str:
    """What a command writes to a terminal of its own, as stdout and stderr of a forked process."""
    import pty

    outer, inner = pty.openpty()
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            for stream in (1, 2):
                os.dup2(inner, stream)
            with (
                open(1, "w", encoding="utf-8", buffering=1) as sys.stdout,
                open(2, "w", encoding="utf-8", buffering=1) as sys.stderr,
            ):
                code = cli.main(args)
        finally:
            os._exit(code)
    os.close(inner)
    written = b""
    while True:
        try:
            part = os.read(outer, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        written += part
    os.close(outer)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (0, 1, 2)
    return written.decode("utf-8").replace("\r\n", "\n")


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudoterminal")
def test_commands_on_a_terminal(sent: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A text of orders, learned by heart: sampled, in the alphabet, in names and in errors."""
    from support import tiny_config

    from bardlet.train import train

    text = ORDER * 2000 + some_text(200).replace(" ", "\u202e")
    name = f"x{ORDER}\u202e"
    source = Source(name=name, bytes=1, sha256="0" * 64)
    prepare(Corpus(name=name, text=text, sources=(source,), notes=(ORDER,)), Path("data/orders"))
    train(tiny_config(Path("data/orders"), Path("out/orders"), max_iters=30, eval_interval=30))
    assert cli.main(["sample", "out/orders", "--start=\x1b", "--num_samples=2"]) == 0
    assert "\x1b]0;" in capfd.readouterr().out, "into a pipe it goes as it is"
    Path(f"{ORDER}.txt").mkdir()
    prompt = ["sample", "out/orders", "--start=\x1b", "--max_new_tokens=200"]
    for command, found in (
        ([*prompt, "--num_samples=2"], "\\x1b]0;"),
        ([*prompt, "--num_samples=1"], "\\x1b]0;"),
        (
            ["inspect", "data/orders"],
            "note: \\x1b]0;owned\\x07",
        ),
        (["sample", "out/orders", "--start=Z"], "is not in the model's alphabet"),
        (["inspect", name], "x\\x1b]0;owned\\x07\\u202e is not a dataset"),
        ([ORDER], "no command"),
        (["train", f"--{ORDER}=1"], "unknown option \\x1b]0;owned\\x07"),
        (["prepare", f"{ORDER}.txt"], "\\x1b]0;owned\\x07.txt has no text"),
        (["inspect", name, "--debug"], "Traceback"),
    ):
        written = on_a_terminal(*command)
        assert found in written
        assert not set(ORDERS) & set(written), command
