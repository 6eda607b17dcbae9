"""What the playground asks of a server, against the model asked in Python."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from serve_support import Served
from support import PLAY

from bardlet.analysis import attention
from bardlet.serve.model import Model
from bardlet.serve.texts import Texts


def ids_of(model: Model, text: str) -> list[int]:
    return model.tokenizer.encode(text).tolist()


def test_a_model_is_described(served: Served, model: Model) -> None:
    status, info, _ = served.ask("GET", "/bardlet/info")
    assert status == 200
    assert (info["name"], info["family"], info["context"]) == ("play", "llama", 32)
    assert (info["n_layer"], info["n_head"], info["tokenizer"]) == (2, 4, "char")
    assert info["can"] == {"attention": True, "evidence": True}
    assert served.ask("GET", "/bardlet/info?model=other")[0] == 404
    _, pieces, _ = served.ask("GET", "/bardlet/vocabulary")
    assert [piece.encode("latin-1") for piece in pieces] == model.tokenizer.tokens()


def test_a_prompt_becomes_the_tokens_that_sampling_begins_with(
    served: Served, model: Model
) -> None:
    for text in ("Speak", ""):
        _, told, _ = served.ask("POST", "/bardlet/encode", {"text": text})
        assert told["ids"] == list(model.prompt(text))
    status, told, _ = served.ask("POST", "/bardlet/encode", {"text": "\u4e2d"})
    assert status == 400 and "\u4e2d" in told["error"]["message"]


def test_logits_and_scores_are_the_models(served: Served, model: Model) -> None:
    ids = ids_of(model, "First Citizen:\nBefore we proceed any further, hear")
    status, raw, headers = served.ask("POST", "/bardlet/logits", {"ids": ids})
    assert (status, headers["content-type"]) == (200, "application/octet-stream")
    with torch.no_grad():
        expected = model.gpt(torch.tensor([ids[-32:]]))[0][0, 0]
    assert np.abs(np.frombuffer(raw, "<f4") - expected.numpy()).max() < 1e-5
    _, told, _ = served.ask("POST", "/bardlet/score", {"ids": ids})
    scores = model.logprobs("First Citizen:\nBefore we proceed any further, hear", top=20)
    assert [one["id"] for one in told] == ids and told[0]["logprob"] is None
    assert [one["logprob"] for one in told[1:]] == [one.logprob for one in scores]
    assert told[5]["top"] == [list(pair) for pair in scores[4].top]


def test_attention_is_that_of_each_layer_and_head(served: Served, model: Model) -> None:
    ids = ids_of(model, "Speak, speak.")
    status, raw, _ = served.ask("POST", "/bardlet/attention", {"ids": ids})
    weights = np.frombuffer(raw, "<f4").reshape(2, 4, len(ids), len(ids))
    assert status == 200
    assert np.array_equal(weights, attention.trace(model.gpt, ids).attention.numpy())
    status, told, _ = served.ask("POST", "/bardlet/attention", {"ids": ids * 9})
    assert status == 400 and "context" in told["error"]["message"]


def test_the_training_text_says_what_follows(served: Served, model: Model) -> None:
    train = PLAY[: int(len(PLAY) * 0.9)]
    _, told, _ = served.ask("POST", "/bardlet/evidence", {"ids": ids_of(model, "kpeak")})
    assert (told["context"], told["count"]) == ("peak", train.count("peak"))
    following = {model.tokenizer.decode([each["id"]]): each["count"] for each in told["next"]}
    assert following == {".": train.count("peak."), ",": train.count("peak,")}
    assert told["snippets"][0]["match"] == "peak"
    assert told["word"] == {"text": "peak", "count": 0, "all": 0}
    assert len(told["ngram"]) == 20
    _, told, _ = served.ask("POST", "/bardlet/evidence", {"ids": ids_of(model, "All:\nSpeak")})
    assert told["word"]["all"] == PLAY.count("Speak") > told["word"]["count"]


def test_tokens_stream_with_what_else_was_likely(served: Served, model: Model) -> None:
    ids = ids_of(model, "Speak")
    body = {"ids": ids, "max_new_tokens": 12, "temperature": 0.8, "top_k": 5, "seed": 3}
    status, raw, headers = served.ask("POST", "/bardlet/generate", body)
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    expected = model.generate_many(["Speak"], max_new_tokens=12, temperature=0.8, top_k=5, seed=3,
                                   logprobs=20)[0]  # fmt: skip
    events = [event_of(line[6:]) for line in raw.decode().split("\n\n") if line.startswith("data")]
    tokens = [token for event in events if event for token in event["tokens"]]
    assert [token["id"] for token in tokens] == expected.tokens
    assert [token["logprob"] for token in tokens] == [one.logprob for one in expected.logprobs]
    assert len(tokens[0]["top"]) == 20
    assert events[-2]["finish"] == "length" and events[-1] is None
    assert served.idle()


def test_looking_leaves_texts_that_are_written_as_they_are(served: Served, model: Model) -> None:
    body = {"prompt": "Speak", "max_tokens": 300, "seed": 4, "top_k": 5}
    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(served.ask, "POST", "/v1/completions", body)
        asked = 0
        while not writing.done():
            for path in ("logits", "score", "attention", "evidence"):
                ids = {"ids": ids_of(model, "All: speak.")}
                assert served.ask("POST", f"/bardlet/{path}", ids)[0] == 200
                asked += 1
    text = writing.result()[1]["choices"][0]["text"]
    assert text == str(
        model.generate("Speak", max_new_tokens=300, temperature=1.0, seed=4, top_k=5)
    )
    assert asked > 3


def event_of(text: str) -> Any:
    """What an event of a stream holds, None for its end."""
    return None if text == "[DONE]" else json.loads(text)


@pytest.mark.parametrize("body", [{"ids": []}, {"ids": [99]}, {"ids": [-1]}, {"ids": [0] * 20_000},
                                  {"ids": "a"}, {}, {"ids": [0], "more": 1}])  # fmt: skip
def test_what_cannot_be_looked_at_is_refused(served: Served, body: dict[str, Any]) -> None:
    for path in ("logits", "score", "attention", "evidence", "generate"):
        status, told, _ = served.ask("POST", f"/bardlet/{path}", body)
        assert status == 400 and told["error"]["message"], path


def test_pages_are_files_of_the_package_alone_under_a_strict_policy(served: Served) -> None:
    for path in ("/", "/web/playground.html"):
        status, page, headers = served.ask("GET", path)
        assert status == 200 and headers["x-content-type-options"] == "nosniff"
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert b"<script type" in page and b"http" not in page
    for name in ("page.py", "__init__.py", "..%2Fserve%2Fapp.py", "%2e%2e/model.py", "none.js"):
        assert served.ask("GET", f"/web/{name}")[0] == 404, name


def test_the_key_guards_all_but_the_packages_own_files(model: Model) -> None:
    one = Served(model, key="secret")
    try:
        assert one.ask("GET", "/")[0] == 200
        assert one.ask("GET", "/bardlet/info")[0] == 401
        assert one.ask("POST", "/bardlet/evidence", {"ids": [0]})[0] == 401
        assert one.ask("GET", "/web/../bardlet/info")[0] in (401, 404)
        key = {"authorization": "Bearer secret"}
        assert one.ask("GET", "/bardlet/info", **key)[0] == 200
        assert one.ask("GET", "/", host="evil.example")[0] == 403
    finally:
        one.close()


def test_a_text_that_is_not_there_any_more_is_said(model: Model, tmp_path: Path) -> None:
    data = Path(model.trained.state.dataset.name)
    away = data.with_name("away")
    shutil.move(data, away)
    try:
        texts = Texts(model.trained.state.dataset)
        texts.load()
        assert "no dataset" in texts.missing and not texts.splits
    finally:
        shutil.move(away, data)
