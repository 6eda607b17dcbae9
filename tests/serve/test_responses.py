"""Responses and embeddings, asked for by OpenAI's own client."""

from __future__ import annotations

from typing import Any

import numpy as np
import openai
import pytest
import torch
from serve_support import Served

from bardlet.model import GPT
from bardlet.serve.model import Model


@pytest.fixture(scope="module")
def client(served_chat: Served) -> openai.OpenAI:
    return served_chat.client()


def test_a_response_is_the_chats_answer(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "play", "temperature": 0.5, "extra_body": {"seed": 3}}
    chat = client.chat.completions.create(
        model="play", messages=[{"role": "user", "content": "Hi?"}], temperature=0.5, seed=3,
        max_tokens=12,
    )  # fmt: skip
    got = client.responses.create(input="Hi?", max_output_tokens=12, **asked)
    assert got.output_text == chat.choices[0].message.content
    assert (got.status, got.object) == ("incomplete", "response")
    assert got.incomplete_details and got.incomplete_details.reason == "max_output_tokens"
    assert got.usage is not None and chat.usage is not None
    assert got.usage.total_tokens == chat.usage.total_tokens
    parts = [{"type": "input_text", "text": "Hi"}, {"type": "input_text", "text": "?"}]
    items: Any = [{"role": "user", "content": parts}]
    again = client.responses.create(input=items, max_output_tokens=12, **asked)
    assert again.output_text == got.output_text and again.id != got.id


def test_a_streamed_response_is_the_whole_one(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "play", "input": "Hi?", "temperature": 0, "max_output_tokens": 20,
        "include": ["message.output_text.logprobs"], "top_logprobs": 2,
    }  # fmt: skip
    whole = client.responses.create(**asked)
    events = list(client.responses.create(**asked, stream=True))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:] == [
        "output_text.done", "content_part.done", "output_item.done", "incomplete",
    ]  # fmt: skip
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    last = events[-1].response  # type: ignore[union-attr]
    assert deltas == last.output_text == whole.output_text
    logprobs = last.output[0].content[0].logprobs
    assert len(logprobs) == 20 and len(logprobs[0].top_logprobs) == 2
    ends: Any = {"logit_bias": {"256": 100}}
    with client.responses.stream(model="play", input="Hi?", extra_body=ends) as stream:
        final = stream.get_final_response()
    assert (final.status, final.output_text) == ("completed", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"store": True}, "store"), ({"previous_response_id": "resp_1"}, "previous_response_id"),
     ({"tools": [{"type": "web_search"}]}, "tools"), ({"background": True}, "background"),
     ({"text": {"format": {"type": "json_object"}}}, "text.format"), ({"input": []}, "input"),
     ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input"),
     ({"max_output_tokens": 0}, "max_output_tokens"),
     ({"input": [{"role": "assistant", "content": "A"}]}, "of role user")],
)  # fmt: skip
def test_what_a_response_cannot_be(
    served_chat: Served, options: dict[str, Any], message: str
) -> None:
    status, answer, _ = served_chat.ask("POST", "/v1/responses", {"input": "Hi?", **options})
    assert status == 400 and message in answer["error"]["message"], answer


def hidden(model: GPT, ids: list[int]) -> torch.Tensor:
    """The states before the head, computed block by block."""
    x = model.transformer["wte"](torch.tensor([ids]))
    for block in model.transformer["h"]:  # type: ignore[union-attr]
        x = block(x, model.rotary[:, : len(ids)], None, None)
    return model.transformer["ln_f"](x)[0]


def test_embeddings_are_the_mean_of_the_last_states(
    served_chat: Served, client: openai.OpenAI
) -> None:
    """In the client's base64 and as numbers, of texts and of ids, by themselves and together."""
    model: Model = served_chat.engine.model
    ids = list(model.prompt("To be"))
    with torch.no_grad():
        expected = hidden(model.gpt, ids).mean(0).numpy()
    one = client.embeddings.create(model="play", input="To be")  # which asks for base64
    assert one.usage.prompt_tokens == len(ids)
    np.testing.assert_allclose(one.data[0].embedding, expected, atol=1e-6)
    several = client.embeddings.create(
        model="play", input=["or not", "To be"], encoding_format="float"
    )
    np.testing.assert_allclose(several.data[1].embedding, expected, atol=1e-6)
    numbers = client.embeddings.create(model="play", input=[ids], dimensions=32)
    np.testing.assert_allclose(numbers.data[0].embedding, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "code"),
    [({"input": "A" * 65}, "context_length_exceeded"), ({"input": ""}, None),
     ({"input": []}, None), ({"input": [300]}, None), ({"input": "A", "dimensions": 8}, None),
     ({"input": "A", "encoding_format": "int8"}, None), ({"input": [["A"]]}, None), ({}, None)],
)  # fmt: skip
def test_what_has_no_embedding(served_chat: Served, body: dict[str, Any], code: str | None) -> None:
    status, answer, _ = served_chat.ask("POST", "/v1/embeddings", body)
    assert (status, answer["error"]["code"]) == (400, code), answer
