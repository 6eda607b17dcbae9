"""`next`, `attention` and `explain` on a tiny run, against torch and a search of its text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from browsing import Visitor
from support import CHECKPOINT, DATA, RUN, TEXT, Refused

from bardlet import cli
from bardlet.interop.load import load_model
from bardlet.sample import generate
from bardlet.sampling.filters import Sampling

TRAIN = TEXT[: len(TEXT) - len(TEXT) // 10]


def run(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    assert cli.main([*args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_next_counts_and_weighs(sent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for start in ("to be th", "whwhwh"):  # as it stands in the text, and only its end
        info = run(capsys, "next", str(RUN), "--start", start, "--top=0", "--temperature=0.7")
        trained = load_model(str(RUN))
        ids = torch.tensor(trained.tokenizer.encode(start).astype("int64"))
        own = trained.model(ids[None])[0][0, -1].double().softmax(-1)
        drawn = (trained.model(ids[None])[0][0, -1].double() / 0.7).softmax(-1)
        longest = next(start[i:] for i in range(len(start)) if start[i:] in TRAIN)
        places = [i for i in range(len(TRAIN)) if TRAIN.startswith(longest, i)]
        assert info["text"] == {
            "dataset": str(DATA),
            "context": longest,
            "occurrences": len(places),
        }
        for row in info["tokens"]:
            assert row["probability"] == pytest.approx(own[row["id"]].item(), abs=2e-3)
            assert row["drawn"] == pytest.approx(drawn[row["id"]].item(), abs=2e-3)
            follows = [i for i in places if TRAIN.startswith(row["token"], i + len(longest))]
            assert row["count"] == len(follows)
            assert row["share"] == pytest.approx(len(follows) / len(places))
        assert sum(row["probability"] for row in info["tokens"]) == pytest.approx(1)
    assert cli.main(["next", str(RUN), "--start", "th", "--top=2"]) == 0
    assert "others" in capsys.readouterr().out


def test_next_goes_without_the_text(sent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DATA.rename("moved")
    info = run(capsys, "next", str(RUN), "--start", "t", "--top=1")
    assert (info["text"], info["tokens"][0]["count"]) == (None, None)
    assert cli.main(["next", str(RUN), "--start", "t"]) == 0
    out, err = capsys.readouterr()
    assert "nothing is counted" in err and "count" not in out


def test_explain_draws_what_sample_does(sent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = load_model(str(RUN))
    prompt = torch.tensor(trained.tokenizer.encode("whether ").astype("int64"))
    for seed in range(4):
        options = ("--start=whether ", f"--seed={seed}", "--temperature=1.5", "--top_k=0")
        info = run(capsys, "explain", str(RUN), *options)
        sampling = Sampling(temperature=1.5, top_k=0)
        tokens = list(generate(trained.model, prompt, max_new_tokens=20, sampling=sampling,
                               seed=seed))  # fmt: skip
        assert info["token"] == tokens[0].item()
    assert sum(info["drawn_with"]) == pytest.approx(1)
    assert len(info["layers"]) == trained.model.config.n_layer
    assert cli.main(["explain", str(RUN), "--start=whether "]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f'{CHECKPOINT}: the token after "whether "')
    assert len(text.splitlines()) < 66  # a page
    assert max(map(len, text.splitlines())) < 130


def test_explains_page_shows_the_way(sent: Path, visit: Visitor) -> None:
    (sent / "p.txt").write_text("whether to be", encoding="utf-8")
    assert cli.main(["explain", str(RUN), "--start=FILE:p.txt", "--html=way.html"]) == 0
    shown = visit((sent / "way.html").as_uri())
    assert shown.locator("li").count() == 7
    assert shown.locator("details").count() >= 6
    shown.locator("summary").nth(1).click()
    assert "self.transformer" in shown.locator(".here").nth(1).text_content()


def test_attention_prints_and_gives_weights(sent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = run(capsys, "attention", str(RUN), "to be", "--layer=1")
    weights = torch.tensor(info["weights"])
    assert weights.shape == (1, 2, 5, 5)
    assert torch.allclose(weights.sum(-1), torch.ones(1, 2, 5))
    assert [(row["layer"], row["head"]) for row in info["heads"]] == [(1, 0), (1, 1)]
    assert cli.main(["attention", str(RUN), "to be"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("mean of 2 layers, mean of 2 heads")
    assert lines[2] == "t #"
    assert cli.main(["attention", str(RUN), "to be " * 11]) == 0  # longer than the context
    assert "its end counts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("next", str(RUN), "--start="), "the prompt is empty"),
        (("next", str(RUN), "--start=说"), "not in the model's alphabet"),
        (("next", str(RUN), "--start=t", "--top=-1"), "top=-1"),
        (("next", str(RUN), "--start=t", "--temperature=-1"), "temperature=-1"),
        (("next", "nowhere", "--start=t"), "no run at nowhere"),
        (("explain", str(RUN), "--start=t", "--seed=-1"), "seed=-1"),
        (("explain", str(RUN), "--start=FILE:no.txt"), "cannot read the prompt"),
        (("explain", str(RUN), "--start=t", "--html=no/such/way.html"), "no/such"),
        (("attention", str(RUN), ""), "the text is empty"),
        (("attention", str(RUN), "t", "--layer=2"), "layer=2 must be from 0 to 1"),
        (("attention", str(RUN), "t", "--head=-1"), "head=-1 must be from 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(
    args: tuple[str, ...], message: str, sent: Path, refused: Refused
) -> None:
    assert message in refused(*args)
