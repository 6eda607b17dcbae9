"""A token's way through a model, against the model's parts called one after another."""

from __future__ import annotations

import ast

import pytest
import torch
from support import tiny_model

from bardlet.analysis import explanation, heads
from bardlet.analysis.next_token import logits_after, probabilities
from bardlet.analysis.token_step import follow
from bardlet.sampling.filters import Sampling

IDS = [3, 1, 4, 1, 5]


def test_the_way_is_the_models(family: str) -> None:
    model = tiny_model(family).eval()
    step = follow(model, IDS)
    idx = torch.tensor([IDS])
    with torch.inference_mode():
        x = model.transformer["wte"](idx)
        torch.testing.assert_close(step.tokens, x[0])
        if family == "gpt2":
            assert step.positions is not None
            torch.testing.assert_close(step.positions, model.transformer["wpe"].weight[:5])
            x = x + step.positions
        rotary = model.rotary[:, :5] if family == "llama" else None
        for layer, block in zip(step.layers, model.transformer["h"], strict=True):
            torch.testing.assert_close(layer.before, x[0, -1])
            normed = block.ln_1(x)
            torch.testing.assert_close(layer.normed, normed[0, -1])
            added = block.attn(normed, rotary, None, None)
            torch.testing.assert_close(layer.attention, added[0, -1])
            torch.testing.assert_close(layer.mlp, block.mlp(block.ln_2(x + added))[0, -1])
            x = block(x, rotary, None, None)
            torch.testing.assert_close(layer.after, x[0, -1])
            read = model.lm_head(model.transformer["ln_f"](x))[0, -1]
            torch.testing.assert_close(layer.lens, read)
            torch.testing.assert_close(layer.heads.sum(-1), torch.ones(4))
        torch.testing.assert_close(step.final, model.transformer["ln_f"](x)[0, -1])
        torch.testing.assert_close(step.logits, model(idx)[0][0, -1])
    torch.testing.assert_close(step.logits, logits_after(model, torch.tensor(IDS)))
    assert not any(module._forward_hooks for module in model.modules())


def test_probabilities_are_the_softmax_and_what_the_filters_leave() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0])
    own, drawn = probabilities(logits, Sampling(temperature=0.5, top_k=2))
    expected = (logits.double().exp() / logits.double().exp().sum()).tolist()
    assert own.tolist() == pytest.approx(expected, abs=1e-12)
    two = torch.tensor([4.0, 6.0], dtype=torch.float64).exp()
    assert drawn.tolist() == pytest.approx([0, 0, *(two / two.sum()).tolist()], abs=1e-7)
    assert probabilities(logits, Sampling(temperature=0))[1].tolist() == [0, 0, 0, 1]


def test_every_step_has_its_place_in_the_code() -> None:
    for name, (file, text) in explanation.CODE.items():
        path, _, line = explanation.place(name).partition(":")
        assert line, f"{file} has no line that begins with {text}"
        code = (explanation.PACKAGE.parent / path).read_text(encoding="utf-8").splitlines()
        assert code[int(line) - 1].strip().startswith(text)
        source = explanation.source(explanation.place(name))
        assert source is not None
        assert source["first"] <= source["line"] == int(line)
        ast.parse("\n".join(line[len(source["lines"][0]) - len(source["lines"][0].lstrip()) :]
                            for line in source["lines"]))  # fmt: skip


def test_the_choice_is_the_stretch_that_the_number_falls_on() -> None:
    logits, names = torch.tensor([1.0, 2.0, 0.5]), ["a", "b", "c"]
    shares = logits.double().softmax(-1).tolist()
    sampling = Sampling(temperature=1, top_k=0)
    for number, name in ((0.0, "a"), (shares[0] + 0.01, "b"), (0.999, "c")):
        last = explanation.choice(logits, names, sampling, torch.tensor(number), 7)[-1]
        assert last.title == f"the choice: {name}"
        assert f"{number:.4f}" in last.lines[0]
    assert f"from {shares[0] + shares[1]:.4f} to 1.0000" in last.lines[1]
    cold = explanation.choice(logits, names, Sampling(temperature=0), torch.tensor(0.0), 7)[-1]
    assert "the likeliest is b" in cold.lines[0]


def test_where_a_head_looks() -> None:
    before = torch.zeros(4, 4)
    before[0, 0] = before[1, 0] = before[2, 1] = before[3, 2] = 1
    known = heads.facts(before)
    assert (known["itself"], known["before"], known["distance"], known["spread"]) == (0, 1, 1, 1)
    even = torch.full((4, 4), 1.0).tril()
    even /= even.sum(-1, keepdim=True)
    known = heads.facts(even)
    assert known["spread"] == pytest.approx(3)  # of 2, 3 and 4
    assert known["distance"] == pytest.approx((0.5 + 1 + 1.5) / 3)
    assert known["first"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)
    assert heads.facts(torch.ones(1, 1))["itself"] == 1


def test_the_triangle_is_readable_text() -> None:
    shown = heads.triangle(torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0.04, 0.26, 0.7]]), "a\n李")
    assert shown.splitlines() == ["   a ↵ 李", " a #", " ↵ 5 5", "李 . 3 7"]
    parts = heads.triangle(torch.tensor([[1.0, 0], [0.5, 0.5]]), ["\\xe4", "the"])
    assert parts.splitlines() == ["     ~ t", "\\xe4 #", " the 5 5"]
    assert explanation.quoted([b"a", b"\xe4\xb8", "李".encode(), b"\n"]) == [
        '"a"',
        "\\xe4\\xb8",
        '"李"',
        '"\\n"',
    ]
