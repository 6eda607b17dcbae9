"""Adapters: what they compute, train and cost, and that merging them changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import (
    CHARS,
    a_data_folder,
    last_weights,
    logits,
    silent,
    some_text,
    tiny_config,
    tiny_model,
    trained,
)

from bardlet import cli, lora, native
from bardlet.commands import settings
from bardlet.data.dataset.folder import Dataset
from bardlet.errors import CheckpointError, UsageError
from bardlet.interop import load
from bardlet.interop.export import export
from bardlet.interop.huggingface import export as huggingface
from bardlet.interop.pretrained_init import load_pretrained
from bardlet.run import checkpoint, run_folder
from bardlet.train import train
from bardlet.training import resume


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return a_data_folder(tmp_path / "data" / "words", some_text(3000))


@pytest.fixture
def source(tmp_path: Path, family: str) -> Path:
    (tmp_path / "hf").mkdir()
    huggingface.write(trained(tiny_model(family), CHARS), tmp_path / "hf", "float32")
    return tmp_path / "hf"


def options(source: Path, **changes: object) -> dict[str, object]:
    return {"init_from": str(source), "lora_rank": 3, "optimizer": "adamw", **changes}


def test_an_adapted_model_begins_as_it_was_and_merges_to_what_it_is(family: str) -> None:
    model = tiny_model(family)
    before = logits(model)
    torch.manual_seed(0)
    lora.adapt(model, 3)
    assert torch.equal(logits(model), before)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("lora_b"):
                p.normal_(std=0.1)
    after = logits(model)
    assert (after - before).abs().max() > 0.1
    # the definition, in float64
    layer = model.transformer["h"][1].mlp.c_proj
    x = torch.randn(5, layer.weight.shape[1])
    parts = [t.double() for t in (layer.weight, layer.lora_a, layer.lora_b)]
    expected = x.double() @ (parts[0] + 2 * parts[2] @ parts[1]).T
    if layer.bias is not None:
        expected += layer.bias
    torch.testing.assert_close(layer(x).double(), expected, rtol=0, atol=1e-5)
    lora.merge(model)
    assert model.config == tiny_model(family).config
    assert [n for n, _ in model.named_parameters()] == [
        n for n, _ in tiny_model(family).named_parameters()
    ]
    torch.testing.assert_close(logits(model), after, rtol=0, atol=1e-5)  # float32 rounding
    assert all(p.requires_grad for p in model.parameters())


def test_only_the_adapters_are_trained_and_have_moments(
    data: Path, source: Path, tmp_path: Path
) -> None:
    config = tiny_config(data, tmp_path / "out", **options(source))
    result = train(config, load_pretrained)
    first = load_pretrained(config, Dataset(data))
    model, _, state = checkpoint.load(run_folder.find(tmp_path / "out", "last"))
    assert model.config.lora_rank == 3 and state.config["lora_rank"] == 3
    for (name, p), (_, q) in zip(model.named_parameters(), first.named_parameters(), strict=True):
        assert p.requires_grad == ("lora" in name)
        assert torch.equal(p, q) != ("lora" in name), name
    moments = checkpoint.weights.read_tensors(
        run_folder.find(tmp_path / "out", "last") / "optimizer.safetensors"
    )
    assert moments and all("lora" in name for name in moments)
    begun = load.load_model(str(source)).model
    assert result.val_loss < 5.0 and not torch.equal(
        logits(load.load_model(str(tmp_path / "out"), "last").model), logits(begun)
    )


def test_a_stopped_run_with_adapters_goes_on_exactly(
    data: Path, source: Path, tmp_path: Path
) -> None:
    def resume(**flags: object) -> None:
        given = {"init_from": "resume", "out_dir": str(tmp_path / "b"), **flags}
        train(settings.resolve_settings([], given, print), load_pretrained)

    fixed = {"decay_lr": False, "warmup_iters": 0}
    train(tiny_config(data, tmp_path / "a", **options(source, **fixed)), load_pretrained)
    begun = tiny_config(data, tmp_path / "b", **options(source, **fixed, max_iters=4))
    train(begun, load_pretrained)
    resume(max_iters=8)
    assert all(map(torch.equal, last_weights(tmp_path / "a"), last_weights(tmp_path / "b")))
    with pytest.raises(CheckpointError, match="lora_rank=2, not 3"):
        resume(lora_rank=2, max_iters=9)


def test_the_compiled_core_leaves_alone_what_it_does_not_compute(family: str) -> None:
    model = tiny_model(family, n_embd=64, n_head=2, n_kv_head=0, mlp_dim=64)
    assert native.runs(model) == (native.library() is not None)
    lora.adapt(model, 2)
    assert not native.runs(model)
    tanh = tiny_model("gpt2", n_embd=64, n_head=2, gelu_approximate="tanh")
    assert not native.runs(tanh)


def test_another_rank_does_not_go_on_with_an_unfinished_run(
    data: Path, source: Path, tmp_path: Path
) -> None:
    config = tiny_config(data, tmp_path / "o", **options(source, lora_rank=2))
    adapted = load_pretrained(tiny_config(data, tmp_path / "o", **options(source)), Dataset(data))
    assert (
        resume.with_model_shape(config, adapted.config).lora_rank == 2
    )  # for check_resume to refuse


def test_the_export_is_merged(
    data: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    train(tiny_config(data, out, **options(source)), load_pretrained)
    done = export(str(out), tmp_path / "m", form="hf", dtype=None, checkpoint="last", say=silent)
    assert done["max_difference"] <= 1e-5
    adapted = checkpoint.load(run_folder.find(out, "last"))[0]
    again = load.load_model(str(tmp_path / "m")).model
    torch.testing.assert_close(logits(again), logits(adapted), rtol=0, atol=1e-5)
    for command in (["inspect", str(out)], ["eval", str(out)],
                    ["sample", str(out), "--num_samples=1", "--max_new_tokens=5"]):  # fmt: skip
        assert cli.main(command) == 0, capsys.readouterr().err


def test_what_cannot_be_adapted(data: Path, source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"lora_rank=3 trains beside.*Name them with --init_from"):
        train(tiny_config(data, tmp_path / "o", **options(source, init_from="scratch")))
    with pytest.raises(UsageError, match="which optimizer=muon is for"):
        tiny_config(data, tmp_path / "o", **options(source, optimizer="muon"))
