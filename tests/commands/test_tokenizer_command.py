"""Tokenizers by the command line: `bardlet tokenizer`, and from any text to a sample of it."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest import CaptureFixture, MonkeyPatch
from support import Refused

from bardlet import cli
from bardlet.commands.sample import SEPARATOR
from bardlet.data.tokenizers.base import load
from bardlet.sample import Text, Writer

TEXT = "".join(f"line {i}: to be, or not to be?\n" for i in range(80))
# Li Bai, "Quiet Night Thought"; Wang Zhihuan, "On the Stork Tower"; Meng Haoran, "Spring Dawn"
POEMS = (
    "\u5e8a\u524d\u660e\u6708\u5149\uff0c\u7591\u662f\u5730\u4e0a\u971c\u3002\n"
    "\u4e3e\u5934\u671b\u660e\u6708\uff0c\u4f4e\u5934\u601d\u6545\u4e61\u3002\n"
    "\u767d\u65e5\u4f9d\u5c71\u5c3d\uff0c\u9ec4\u6cb3\u5165\u6d77\u6d41\u3002\n"
    "\u6b32\u7a77\u5343\u91cc\u76ee\uff0c\u66f4\u4e0a\u4e00\u5c42\u697c\u3002\n"
    "\u6625\u7720\u4e0d\u89c9\u6653\uff0c\u5904\u5904\u95fb\u557c\u9e1f\u3002\n"
    "\u591c\u6765\u98ce\u96e8\u58f0\uff0c\u82b1\u843d\u77e5\u591a\u5c11\u3002\n"
) * 10
SHAPE = [
    "--family=llama", "--n_layer=1", "--n_head=2", "--n_embd=32", "--block_size=16",
    "--batch_size=2", "--gradient_accumulation_steps=1", "--eval_interval=2", "--eval_iters=1",
    "--warmup_iters=1", "--lr_decay_iters=9", "--device=cpu", "--dtype=float32",
]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """Every test runs in an empty folder of its own, with texts in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plays.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "poems.txt").write_text(POEMS, encoding="utf-8")


@pytest.fixture
def printed(capfd: CaptureFixture[str]) -> Any:
    """Run a command that has to succeed; return what it prints."""

    def command(*args: str) -> str:
        capfd.readouterr()
        code = cli.main(args)
        out, err = capfd.readouterr()
        assert code == 0, err
        return out

    return command


def trained(printed: Any, source: str, tokenizer: str, iters: int = 2, size: int = 0) -> str:
    """Prepare a text, train on it, and return the folder of the run."""
    name = Path(tokenizer).stem
    sized = [f"--vocab_size={size}"] if size else []
    printed("prepare", source, f"--tokenizer={tokenizer}", f"--out=data/{name}", *sized)
    run = f"out/{name}"
    printed("train", *SHAPE, f"--dataset=data/{name}", f"--out_dir={run}", f"--max_iters={iters}")
    return run


@pytest.mark.parametrize(("tokenizer", "size"), [("char", 0), ("byte", 0), ("bpe", 280)])
def test_from_text_to_text(tokenizer: str, size: int, printed: Any, refused: Refused) -> None:
    run = trained(printed, "plays.txt", tokenizer, size=size)
    kept = load(Path(run, "checkpoints", "iter-00000002", "tokenizer.json"))
    assert kept.kind == tokenizer
    sizes = {"char": len(set(TEXT)), "byte": 257, "bpe": 280}
    assert kept.vocab_size == sizes[tokenizer]
    assert tokenizer in printed("inspect", f"data/{tokenizer}")
    assert printed("inspect", run)
    prompt = "to be" if tokenizer == "char" else "\u7591\u662f \U0001f600 <|endoftext|> e\u0301\x00"
    sample = json.loads(printed("sample", run, f"--start={prompt}", "--max_new_tokens=9", "--json"))
    assert sample["samples"][0].startswith(prompt)
    streamed = printed("sample", run, f"--start={prompt}", "--max_new_tokens=9", "--num_samples=1")
    assert streamed.startswith(prompt)
    if tokenizer == "char":
        assert "'\u7591' at position 0 is not in the model's alphabet" in refused(
            "sample", run, "--start=\u7591"
        )


def test_bits_per_byte_compare_between_tokenizers(printed: Any) -> None:
    found = {}
    for tokenizer, size in (("char", 0), ("byte", 0), ("bpe", 300)):
        run = trained(printed, "plays.txt", tokenizer, size=size)
        score = json.loads(printed("eval", run, "--json"))
        manifest = json.loads(Path("data", tokenizer, "manifest.json").read_text(encoding="utf-8"))
        val = manifest["splits"]["val"]
        # all but the first token are predicted, of the bytes that the text really has
        assert score["tokens"] == val["tokens"] - 1
        ids = load(Path("data", tokenizer, "tokenizer.json")).encode(TEXT[-val["characters"] :])
        assert len(ids) == val["tokens"]
        first = load(Path("data", tokenizer, "tokenizer.json")).token_bytes()[ids[0]]
        nats = score["loss"] * score["tokens"]
        expected = nats / math.log(2) / (val["bytes"] - first)
        assert score["bits_per_byte"] == pytest.approx(expected, rel=1e-6)
        found[tokenizer] = score["bits_per_byte"]
    # hardly trained, a model needs log2 V bits for a token; per byte, longer tokens need fewer
    assert found["bpe"] < found["byte"]


@pytest.mark.parametrize(("tokenizer", "size"), [("char", 0), ("bpe", 600)])
def test_chinese_poems(tokenizer: str, size: int, printed: Any) -> None:
    run = trained(printed, "poems.txt", tokenizer, iters=6, size=size)
    start = "\u660e\u6708"
    prompt = ["sample", run, f"--start={start}", "--num_samples=1", "--max_new_tokens=60"]
    for seed in range(3):
        draw = [*prompt, f"--seed={seed}", "--temperature=0.5"]
        streamed = printed(*draw).rsplit("\n", 2)[0]
        whole = json.loads(printed(*draw, "--json"))["samples"][0]
        assert streamed == whole
        assert streamed.startswith(start)
        if tokenizer == "char":
            assert set(streamed) <= set(POEMS)
            assert "\ufffd" not in streamed
    if tokenizer == "bpe":  # ids that are the poem's own come without a broken character
        kept = load(Path("data/bpe/tokenizer.json"))
        stream = kept.stream()
        pieces = [stream.feed([int(i)]) for i in kept.encode(POEMS)]
        assert "".join(pieces) == POEMS
        assert stream.end() == ""
        assert len(kept.encode(POEMS)) < len(POEMS)


@pytest.mark.parametrize("kind", ["bpe", "byte"])
def test_a_sample_that_ends_within_a_character_does_not_show_it(
    kind: str, printed: Any, monkeypatch: MonkeyPatch
) -> None:
    run = trained(printed, "poems.txt", kind, size=300 if kind == "bpe" else 0)
    kept = load(Path("data", kind, "tokenizer.json"))
    ids = kept.encode(POEMS)
    assert len(ids) > 1.4 * len(POEMS)  # most tokens are parts of characters

    def poem(self: Writer, texts: Sequence[Text], logits: object = ()) -> tuple[Any, Any]:
        for text in texts:
            text.tokens[text.length] = int(ids[text.length - text.prompt])
            text.length += 1
        return torch.stack([text.tokens[text.length - 1] for text in texts])[None], None

    monkeypatch.setattr(Writer, "step", poem)
    for count in range(1, 10):
        draw = ["sample", run, "--start=A", f"--max_new_tokens={count}"]
        streamed = printed(*draw, "--num_samples=1").removesuffix(f"\n{SEPARATOR}\n")
        raw = b"".join([kept.tokens()[i] for i in ids[:count]])
        assert streamed == "A" + raw.decode("utf-8", "ignore")  # the poems are UTF-8 up to its end
        assert json.loads(printed(*draw, "--num_samples=2", "--json"))["samples"] == [streamed] * 2
        marked = printed(*draw, "--num_samples=1", "--check_memorization")
        assert "\ufffd" not in marked.split(SEPARATOR)[0]


def test_train_writes_a_file_that_other_commands_take(printed: Any) -> None:
    out = json.loads(
        printed("tokenizer", "train", "plays.txt", "--out=t.json", "--vocab_size=270", "--json")
    )
    assert out == {"tokenizer": "t.json", "kind": "bpe", "vocab_size": 270}
    assert printed("tokenizer", "train", "plays.txt", "--tokenizer=char") == (
        f"tokenizer.json: char, {len(set(TEXT)) + 1} tokens\n"
    )
    ids = printed("tokenizer", "encode", "to be \u00e9", "--tokenizer=t.json").split()
    assert [int(i) for i in ids] == load(Path("t.json")).encode("to be \u00e9").tolist()
    assert printed("tokenizer", "decode", *ids, "--tokenizer=t.json") == "to be \u00e9\n"
    whole = json.loads(printed("tokenizer", "encode", "to \u00e9", "--tokenizer=byte", "--json"))
    assert whole == {
        "ids": [116, 111, 32, 195, 169], "tokens": ["t", "o", " ", "\\xc3", "\\xa9"],
    }  # fmt: skip
    run = trained(printed, "plays.txt", "t.json")
    manifest = json.loads(Path("data/t/manifest.json").read_text(encoding="utf-8"))
    assert (manifest["tokenizer"], manifest["vocab_size"]) == ("bpe", 270)
    for folder in (run, "data/t"):  # their tokenizer, by their name
        assert printed("tokenizer", "encode", "to be", f"--tokenizer={folder}").split() == ids[:-3]


def test_train_and_compare_read_what_prepare_reads(printed: Any, refused: Refused) -> None:
    """Records, tables and packed files are read as such: their keys are no part of the text."""
    Path("all").mkdir()
    with gzip.open("all/a.jsonl.gz", "wt") as file:
        file.write('{"body": "aab"}\n{"body": "cc"}\n')
    Path("all/b.csv").write_text("id,body\n7,d\n", encoding="utf-8")
    args = ["--tokenizer=char", "--out=t.json", "--text_key=body"]
    printed("tokenizer", "train", "all", *args)
    assert load(Path("t.json")).tokens() == [b"a", b"b", b"c", b"d", b"<|endoftext|>"]
    printed("tokenizer", "train", "all/*.gz", "all/b.csv", *args)
    assert load(Path("t.json")).vocab_size == 5
    args = ["--tokenizers=byte", "--text_column=body", "--json"]
    found = json.loads(printed("tokenizer", "compare", "all", *args))
    assert found["tokenizers"][0]["bytes"] == len("aab\ncc\nd\n")
    assert "there are body" in refused("tokenizer", "train", "all")


def test_what_cannot_be_read_is_an_error_or_left_out_and_said(
    refused: Refused, capfd: CaptureFixture[str]
) -> None:
    Path("all").mkdir()
    Path("all/a.txt").write_text("aabb\n" * 60, encoding="utf-8")
    Path("all/bad.txt").write_bytes(b"c\xff")
    Path("all/bad.jsonl").write_text('{"text": "d"}\n{"text"', encoding="utf-8")
    Path("all/bad.txt.gz").write_bytes(b"\x1f\x8b no")
    for action in ("train", "compare"):
        assert "bad.jsonl, line 2 is not JSON" in refused("tokenizer", action, "all")
    bad = {"bad.jsonl", "bad.txt", "bad.txt.gz"}
    for action in (["train"], ["train", "--tokenizer=char"], ["compare", "--tokenizers=byte"]):
        assert cli.main(["tokenizer", *action, "all", "--skip_unreadable"]) == 0
        said = re.findall("^not all read: ([^:]*): .", capfd.readouterr().err, re.MULTILINE)
        assert (set(said), len(said)) == (bad, 3)
    assert cli.main(["tokenizer", "train", "all/bad.txt", "--skip_unreadable"]) == 1
    assert "nothing could be read: bad.txt is not utf-8" in capfd.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="links and pipes are others there")
def test_a_tokenizer_is_written_where_a_link_leads(printed: Any, refused: Refused) -> None:
    os.mkfifo("pipe")  # which stands for a device
    assert "cannot write pipe: it is not a reg" in refused("tokenizer", "train", "no", "--out=pipe")
    assert Path("pipe").is_fifo()
    Path("pipe").unlink()
    Path("kept").mkdir()
    Path("t.json").symlink_to("kept/t.json")
    for _ in range(2):
        printed("tokenizer", "train", "plays.txt", "--tokenizer=char", "--out=t.json")
        assert Path("t.json").is_symlink() and load(Path("kept/t.json")).kind == "char"
    Path("t.json").unlink()
    Path("kept/t.json").unlink()
    printed("tokenizer", "train", ".")
    first = Path("tokenizer.json").read_bytes()
    printed("tokenizer", "train", ".")  # which is not taken for one of the texts
    assert Path("tokenizer.json").read_bytes() == first


def test_what_follows_two_dashes_is_no_option(printed: Any) -> None:
    ids = printed("tokenizer", "encode", "--tokenizer=byte", "--", "--no-such", "--debug")
    assert bytes(int(i) for i in ids.split()) == b"--no-such --debug"
    Path("-dash.txt").write_text(TEXT, encoding="utf-8")
    args = ["--tokenizer=char", "--out=t.json", "--", "-dash.txt"]
    printed("tokenizer", "train", *args)
    printed("prepare", "--out=data/d", "--", "-dash.txt")


def test_a_comparison_of_none_has_failed(capfd: CaptureFixture[str]) -> None:
    Path("bad.json").write_text("{}", encoding="utf-8")
    for extra in ([], ["--json"]):
        args = ["tokenizer", "compare", "plays.txt", "--tokenizers=bad.json", *extra]
        assert cli.main(args) == 1
        assert "none of them is available" in capfd.readouterr().out


def test_an_encoding_that_lacks_a_character_ends_no_command() -> None:
    command = [sys.executable, "-m", "bardlet", "tokenizer", "compare", "poems.txt"]
    done = subprocess.run(
        [*command, "--tokenizers=char"], capture_output=True, text=True,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "\\u5e8a|\\u524d" in done.stdout


def test_compare_leaves_out_a_text_that_cannot_be_read(capfd: CaptureFixture[str]) -> None:
    Path("bad.txt").write_bytes(b"\xff")
    args = ["tokenizer", "compare", "bad.txt", "plays.txt", "--tokenizers=byte", "--json"]
    assert cli.main(args) == 1
    assert "bad.txt is not utf-8" in capfd.readouterr().err
    assert cli.main([*args, "--skip_unreadable"]) == 0
    out, err = capfd.readouterr()
    assert list(json.loads(out)["tokenizers"][0]["bytes_per_token_of"]) == ["plays.txt"]
    assert "left out: bad.txt: nothing could be read: bad.txt is not utf-8" in err
    assert cli.main([*args[:3], "--skip_unreadable"]) == 1
    err = capfd.readouterr().err
    assert "left out: bad.txt: nothing could be read: bad.txt is not utf-8" in err
    assert "no source could be read" in err


def test_a_limit_may_leave_white_space_alone(printed: Any, refused: Refused) -> None:
    Path("a.txt").write_text("a a b   c", encoding="utf-8")
    printed("tokenizer", "train", "a.txt", "--tokenizer=char", "--vocab_size=3", "--out=t.json")
    assert load(Path("t.json")).tokens() == [b" ", b"<unk>", b"<|endoftext|>"]
    Path("a.txt").write_text(" \n", encoding="utf-8")
    for tokenizer in ("char", "bpe"):
        assert "a is empty" in refused("tokenizer", "train", "a.txt", f"--tokenizer={tokenizer}")


def test_what_is_mended_is_counted(capfd: CaptureFixture[str]) -> None:
    Path("a.txt").write_bytes(b"caf\xe9 " * 40)
    for action in (["train"], ["train", "--tokenizer=char"], ["compare", "--tokenizers=byte"]):
        assert cli.main(["tokenizer", *action, "a.txt", "--errors=replace"]) == 0
        assert "40 places that are not of the encoding were mended" in capfd.readouterr().err


def test_a_vocabulary_of_several_texts_is_that_of_all_of_them(printed: Any) -> None:
    printed("tokenizer", "train", "plays.txt", "poems.txt", "--vocab_size=300", "--out=t.json")
    Path("both.txt").write_text(TEXT + POEMS, encoding="utf-8")
    printed("tokenizer", "train", "both.txt", "--vocab_size=300", "--out=both.json")
    assert Path("t.json").read_bytes() == Path("both.json").read_bytes()
    printed("tokenizer", "train", "plays.txt", "--vocab_size=300", "--out=one.json")
    assert Path("t.json").read_bytes() != Path("one.json").read_bytes()


def test_standard_input_is_taken(printed: Any, monkeypatch: MonkeyPatch) -> None:
    for command, given, expected in (
        ("encode", "\u00e9\n".encode(), "195 169 10\n"),
        ("encode", b"\xef\xbb\xbfa\r\nb\r", "97 10 98 10\n"),  # as prepare reads a text
        ("decode", b"195, 169\n32", "\u00e9 \n"),
    ):  # fmt: skip
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        assert printed("tokenizer", command, "--tokenizer=byte") == expected


def test_compare_measures_and_recommends(printed: Any) -> None:
    Path("bad.json").write_text("{}", encoding="utf-8")
    names = "char,byte,bpe,bad.json"
    args = ["tokenizer", "compare", "plays.txt", "poems.txt", f"--tokenizers={names}"]
    found = json.loads(printed(*args, "--vocab_size=300", "--json"))
    rows = {row["tokenizer"]: row for row in found["tokenizers"]}
    both = TEXT + POEMS
    assert list(rows) == names.split(",")
    assert rows["char"]["tokens"] == len(both)
    assert rows["byte"]["tokens"] == rows["char"]["bytes"] == len(both.encode())
    assert rows["byte"]["bytes_per_token_of"] == {"plays.txt": 1.0, "poems.txt": 1.0}
    assert rows["bpe"]["vocab_size"] == 300
    assert rows["bpe"]["tokens"] < rows["byte"]["tokens"]
    assert "".join(rows["bpe"]["example"]["plays.txt"]) == TEXT.splitlines()[0]
    assert "is damaged" in rows["bad.json"]["problem"]
    assert all(rows[name]["exact"] for name in ("char", "byte", "bpe"))
    assert found["recommended"] in rows
    table = printed(*args, "--vocab_size=300").splitlines()
    assert table[0].split()[:3] == ["tokenizer", "vocabulary", "tokens"]
    assert table[-1].startswith(f"take {found['recommended']}: ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "say which of train, encode, decode, compare"),
        (["trian"], "'trian' is not one of train, encode, decode, compare"),
        (["train"], "source"),
        (["train", "nope.txt"], "'nope.txt' is neither a file nor a folder"),
        (["train", "plays.txt", "--vocab_size=5"], "vocab_size=5 must lie between 257"),
        (["train", "plays.txt", "--tokenizer=char", "--vocab_size=-3"], "must be 3 or more"),
        (["train", "plays.txt", "--out="], "cannot write .: it is a folder"),
        (["train", "no.txt", "--out=no/t.json"], "cannot write no/t.json: there is no such folder"),
        (["train", "poems.txt", "plays.txt", "--out=./plays.txt"], "plays.txt is the text itself"),
        (["train", ".", "--out=plays.txt"], "plays.txt is the text itself"),
        (["train", "-", "-"], "standard input can be read once"),
        (["encode", "a", "--tokenizer="], "tokenizer= names none"),
        (["train", "plays.txt", "--tokenizer=byte"], "invalid choice"),
        (["encode", "a", "--tokenizer=char"], "char is made for a text"),
        (["encode", "a", "--tokenizer=bite"], "Did you mean byte?"),
        (["encode", "a", "--tokenizer=plays.txt"], "plays.txt is damaged"),
        (["encode", "a", "--tokenizer=."], "cannot read the tokenizer"),
        (["decode", "x", "--tokenizer=byte"], "'x' is not an id"),
        (["decode", "257", "--tokenizer=byte"], "'257' is not an id"),
        (["decode", "0" * 20 + "999", "--tokenizer=byte"], "is not an id"),
        (["decode", "--tokenizer=byte", "--", "-1"], ""),
        (["compare", "no.txt", "--vocab_size=9"], "vocab_size=9 must lie between 257"),
        (["compare", "no.txt", "--tokenizers=,"], "--tokenizers names none"),
        (["compare", "plays.txt", "--tokenizers=char,zip"], "tokenizer=zip is not known"),
    ],
)
def test_a_mistake_is_said_in_one_line(args: list[str], message: str, refused: Refused) -> None:
    assert message in refused("tokenizer", *args)


def test_a_file_among_the_words_hears_of_the_option(capfd: CaptureFixture[str]) -> None:
    assert cli.main(["tokenizer", "encode", "plays.txt", "a", "--tokenizer=byte"]) == 0
    out, err = capfd.readouterr()
    assert out.split() == [str(byte) for byte in b"plays.txt a"]
    assert err == (
        "plays.txt is a file, and its name is taken as text: --tokenizer plays.txt takes it for "
        "the tokenizer, < plays.txt reads the text from it\n"
        + " ".join(f'"{char}"' for char in "plays.txt a")
        + "\n"
    )
    assert cli.main(["tokenizer", "decode", "plays.txt", "9", "--tokenizer=byte"]) == 2
    assert "--tokenizer plays.txt" in capfd.readouterr().err
    assert cli.main(["tokenizer", "encode", "a" * 5000, "no.txt", "--tokenizer=byte"]) == 0
    assert capfd.readouterr().err == '"a" ' * 200 + "...\n"


def test_standard_input_that_cannot_be(refused: Refused, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\xff")))
    said = refused("tokenizer", "encode", "--tokenizer=byte")
    assert "standard input is not utf-8: byte 0xff at offset 1 (" in said
    assert "--" not in said, "no option of another command"
    monkeypatch.setattr(sys, "stdin", None)
    assert "standard input is closed" in refused("tokenizer", "encode", "--tokenizer=byte")


@pytest.mark.parametrize("action", ["", "train", "encode", "decode", "compare"])
def test_help_tells_what_there_is(action: str, capsys: CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["tokenizer", *([action] if action else []), "--help"])
    out = capsys.readouterr().out
    assert left.value.code == 0
    assert f"bardlet tokenizer {action}".rstrip() in out
    assert ("--json" if action else "measure tokenizers") in out


def test_special_tokens_are_trained_and_encoded_only_where_it_is_allowed(
    printed: Any, refused: Refused
) -> None:
    names = "<|user|>,<|assistant|>"
    out = ["--out=own.json", "--vocab_size=300"]
    printed("tokenizer", "train", "plays.txt", f"--special_tokens={names}", *out)
    own = load(Path("own.json"))
    assert own.special() == {"<|endoftext|>": 297, "<|user|>": 298, "<|assistant|>": 299}
    assert (own.vocab_size, own.end_of_text) == (300, 297)
    encode = ["tokenizer", "encode", "--tokenizer=own.json", "--json"]
    text = "<|user|>to be?<|assistant|>"
    plain = json.loads(printed(*encode, text))["ids"]
    allowed = json.loads(printed(*encode, text, "--allow_special"))
    assert max(plain) < 297
    assert [allowed["ids"][0], allowed["ids"][-1]] == [298, 299]
    assert allowed["ids"][1:-1] == own.encode("to be?").tolist()
    assert allowed["tokens"][0] == "<|user|>"
    assert own.decode(allowed["ids"]) == own.decode(plain) == text
    for wrong in ("e", "<|a|>,<|a|>", "<|a|>,", "<|endoftext|>"):
        command = ["tokenizer", "train", "plays.txt", f"--special_tokens={wrong}", *out]
        assert "is a token already or has no text" in refused(*command, code=2)
    command = ["tokenizer", "train", "plays.txt", "--tokenizer=char", "--special_tokens=<|a|>"]
    assert "--special_tokens is for --tokenizer bpe" in refused(*command, code=2)


def test_without_a_tokenizer_the_newest_datasets_is_taken(
    printed: Any, capfd: CaptureFixture[str]
) -> None:
    for name in ("plays", "poems"):
        printed("prepare", f"{name}.txt")
    os.utime("data/plays/manifest.json", (2e9, 2e9))
    Path("data/.hidden.partial.tmp").mkdir()
    Path("data/.hidden.partial.tmp/manifest.json").write_text("{", encoding="utf-8")
    assert cli.main(["tokenizer", "encode", "to\nbe"]) == 0
    out, err = capfd.readouterr()
    assert "no --tokenizer: taking that of the newest dataset, data/plays" in err
    assert r'"t" "o" "\n" "b" "e"' in err
    assert [int(word) for word in out.split()] == load(Path("data/plays/tokenizer.json")).encode(
        "to\nbe"
    ).tolist()
    assert printed("tokenizer", "decode", *out.split()) == "to\nbe\n"


@pytest.mark.parametrize(
    "given", ["116 111", "116,111", "[116, 111]", '{"ids": [116, 111], "tokens": ["t", "o"]}',
              "116\n111\n"],
)  # fmt: skip
def test_decode_takes_what_encode_prints(
    given: str, printed: Any, monkeypatch: MonkeyPatch
) -> None:
    assert printed("tokenizer", "decode", "--tokenizer=byte", given) == "to\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
    assert printed("tokenizer", "decode", "--tokenizer=byte") == "to\n"


def test_text_that_is_lost_is_said(printed: Any, capfd: CaptureFixture[str]) -> None:
    printed("tokenizer", "train", "plays.txt", "--tokenizer=char", "--vocab_size=9", "--out=t.json")
    assert cli.main(["tokenizer", "encode", "--tokenizer=t.json", "ox xo"]) == 0
    lost = "2 characters that the vocabulary lacks became its token for unknown ones (2 bytes): 'x'"
    assert lost in capfd.readouterr().err
    printed("prepare", "plays.txt", "--tokenizer=t.json", "--out=d")
    printed("train", "--dataset=d", "--out_dir=out/r", *SHAPE, "--max_iters=1")
    assert cli.main(["sample", "out/r", "--start=ox xo", "--max_new_tokens=1"]) == 0
    assert f"of the prompt, {lost}" in capfd.readouterr().err
