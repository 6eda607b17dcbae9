"""The model against its definition and against transformers' own GPT-2, Llama and Qwen3."""

from __future__ import annotations

import math

import pytest
import torch
from support import FAMILIES, TINY, tiny_model

from bardlet.model import GPT, GPTConfig, KVCache, attend, rotary_table, rotate

transformers = pytest.importorskip("transformers")


def ids(*shape: int, vocab_size: int = 50, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab_size, shape, generator=generator)


def test_shapes_with_and_without_targets(family: str) -> None:
    model = tiny_model(family)
    idx = ids(3, 10)
    logits, loss = model(idx, idx)
    assert logits.shape == (3, 10, 50)
    assert loss.shape == () and loss.dtype == torch.float32
    last, none = model(idx)
    assert none is None
    torch.testing.assert_close(last, logits[:, -1:])


def test_no_position_sees_the_future(family: str) -> None:
    model = tiny_model(family).eval()
    idx = ids(2, 16)
    changed = idx.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 50
    before, after = model(idx, idx)[0], model(changed, idx)[0]
    torch.testing.assert_close(before[:, :9], after[:, :9], rtol=0, atol=0)
    assert (before[:, 9:] - after[:, 9:]).abs().amax(-1).min() > 1e-4  # and all later ones do


def test_first_loss_is_near_ln_of_the_vocabulary(family: str) -> None:
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=65, **{**TINY, **FAMILIES[family]}))
    _, loss = model(ids(8, 16, vocab_size=65), ids(8, 16, vocab_size=65, seed=2))
    assert loss.item() == pytest.approx(math.log(65), abs=0.05)


def test_untied_llama_starts_exactly_at_ln_of_the_vocabulary() -> None:
    model = GPT(GPTConfig(vocab_size=65, **{**TINY, **FAMILIES["llama"]}))
    _, loss = model(ids(2, 16, vocab_size=65), ids(2, 16, vocab_size=65))
    assert loss.item() == pytest.approx(math.log(65), abs=5e-6)  # float32


def test_positions_with_target_minus_one_do_not_count(family: str) -> None:
    model = tiny_model(family)
    idx, targets = ids(2, 8), ids(2, 8, seed=2)
    logits, _ = model(idx, targets)
    targets[:, 3:] = -1
    _, loss = model(idx, targets)
    expected = torch.nn.functional.cross_entropy(
        logits[:, :3].flatten(0, 1), targets[:, :3].flatten()
    )
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("past", [0, 1, 5])
@pytest.mark.parametrize("kv_heads", [2, 4])
def test_attention_equals_its_formula(past: int, kv_heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    T, S, D = 4, 4 + past, 8
    q = torch.randn(2, 4, T, D, generator=generator, dtype=torch.float64)
    k, v = torch.randn(2, 2, kv_heads, S, D, generator=generator, dtype=torch.float64)
    wide_k, wide_v = (x.repeat_interleave(4 // kv_heads, dim=1) for x in (k, v))
    scores = q @ wide_k.mT / math.sqrt(D)
    for i in range(T):
        scores[:, :, i, past + i + 1 :] = -math.inf
    expected = scores.softmax(-1) @ wide_v
    torch.testing.assert_close(attend(q, k, v, 0.0, None), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("positions", [40, 128, 160])
@pytest.mark.parametrize("autocast", [False, True])
def test_attention_in_bfloat16_rounds_no_scores(positions: int, autocast: bool) -> None:
    """Rounded before the softmax, scores of 20 are off by 0.06, and outputs here by 0.05."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, positions, 64, generator=generator).bfloat16().unbind()
    q = q * 3
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = attend(q, k, v, 0.0, None)
    expected = attend(q.double(), k.double(), v.double(), 0.0, None)
    assert y.dtype == torch.bfloat16
    # the weights and the output are rounded: 2^-8 of values up to 4 each
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=0.02)


def test_rotation_rounds_its_result_alone() -> None:
    config = tiny_model("llama", block_size=512).config
    table = rotary_table(config)
    x = torch.randn(2, 512, 3, config.head_size, generator=torch.Generator().manual_seed(0))
    x = x.bfloat16()
    expected = rotate(x.double(), table)
    assert rotate(x, table).dtype == torch.bfloat16
    torch.testing.assert_close(rotate(x, table).double(), expected, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_keeps_its_angles_and_its_logits(
    family: str, dtype: torch.dtype
) -> None:
    """Logits rounded to 8 bits would tie, and the sampler compares them."""
    model = tiny_model(family).eval().to(dtype)
    if model.config.llama:
        assert torch.equal(model.rotary, rotary_table(model.config))
    hidden: list[torch.Tensor] = []
    model.transformer["ln_f"].register_forward_hook(lambda m, x, y: hidden.append(y))
    cache = KVCache(model.config, 3, torch.device("cpu"), dtype)
    for cached in (None, cache):
        with torch.no_grad():
            logits, _ = model(ids(3, 12), cache=cached)
        expected = hidden[-1][:, -1:].double() @ model.lm_head.weight.double().T
        torch.testing.assert_close(logits.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pieces", [[12], [5, 7], [1] * 12, [6, 1, 5]])
def test_cached_logits_equal_uncached(family: str, pieces: list[int]) -> None:
    model = tiny_model(family).eval()
    idx = ids(3, 12)
    cache = KVCache(model.config, 3, torch.device("cpu"), torch.float32)
    for piece in idx.split(pieces, dim=1):
        logits, _ = model(piece, cache=cache)
    torch.testing.assert_close(logits, model(idx)[0], rtol=0, atol=1e-5)
    assert cache.length == 12


def test_longer_than_the_context_is_a_programming_error(family: str) -> None:
    with pytest.raises(AssertionError, match="longer than the context"):
        tiny_model(family)(ids(1, 17))


@pytest.mark.parametrize(
    ("options", "count"),
    [
        # 6 layers of 12 C^2, an embedding that is the head, and norms without biases: nanoGPT's
        # README figure for its Shakespeare model is 10.65M
        ({"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256}, 10_646_784),
        (
            {"n_layer": 12, "n_head": 12, "n_embd": 768, "vocab_size": 50257, "bias": True},
            123_653_376,
        ),
    ],
)
def test_parameter_count(options: dict[str, int], count: int) -> None:
    with torch.device("meta"):
        model = GPT(GPTConfig(**{"vocab_size": 65, **options}))
    assert model.num_params() == count


def test_flops_per_token_of_gpt2_124m() -> None:
    with torch.device("meta"):
        model = GPT(GPTConfig(vocab_size=50257, bias=True))
    # 6 N + 12 L H D T with nanoGPT's N
    assert model.flops_per_token() == 6 * 123_653_376 + 12 * 12 * 12 * 64 * 1024


def test_dropout_acts_in_training_only(family: str) -> None:
    model = tiny_model(family, dropout=0.5)
    idx = ids(2, 16)
    model.train()
    assert not torch.equal(model(idx)[0], model(idx)[0])
    model.eval()
    torch.testing.assert_close(model(idx)[0], tiny_model(family).eval()(idx)[0], rtol=0, atol=0)


# --- an independent implementation: transformers


def as_gpt2(model: GPT) -> torch.nn.Module:
    """transformers' GPT-2 with our weights; its Conv1D matrices are ours turned."""
    c = model.config
    config = transformers.GPT2Config(
        vocab_size=c.vocab_size, n_positions=c.block_size, n_embd=c.n_embd, n_layer=c.n_layer,
        n_head=c.n_head, activation_function="gelu", resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, layer_norm_epsilon=c.norm_eps,
    )  # fmt: skip
    theirs = transformers.GPT2LMHeadModel(config)
    state = {
        n: p.T if n.split(".")[-2] in ("c_attn", "c_proj", "c_fc") and p.dim() == 2 else p
        for n, p in model.state_dict().items()
    }
    missing, extra = theirs.load_state_dict(state, strict=False)
    assert not missing and not extra
    return theirs


def as_llama(model: GPT) -> torch.nn.Module:
    """transformers' Llama, or Qwen3 where queries and keys are normalised, with our weights."""
    c = model.config
    family = "Qwen3" if c.qk_norm else "Llama"
    config = getattr(transformers, f"{family}Config")(
        vocab_size=c.vocab_size, hidden_size=c.n_embd, intermediate_size=c.mlp_size,
        num_hidden_layers=c.n_layer, num_attention_heads=c.n_head, head_dim=c.head_size,
        num_key_value_heads=c.kv_heads, max_position_embeddings=c.block_size,
        rms_norm_eps=c.norm_eps, tie_word_embeddings=c.tied, attention_bias=False,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
    )  # fmt: skip
    theirs = getattr(transformers, f"{family}ForCausalLM")(config)
    state = {}
    for name, p in model.state_dict().items():
        name = name.replace("transformer.h.", "model.layers.").replace(".attn.", ".self_attn.")
        name = name.replace(".ln_1.", ".input_layernorm.").replace(".c_proj.", ".o_proj.")
        name = name.replace(".ln_2.", ".post_attention_layernorm.")
        name = name.replace("transformer.wte.", "model.embed_tokens.")
        name = name.replace("transformer.ln_f.", "model.norm.").replace(
            "mlp.o_proj", "mlp.down_proj"
        )
        if ".c_attn." in name:
            D = c.head_size
            parts = p.split([c.n_head * D, c.kv_heads * D, c.kv_heads * D])
            for letter, part in zip("qkv", parts, strict=True):
                state[name.replace("c_attn", f"{letter}_proj")] = part
        elif ".c_fc." in name:
            for kind, part in zip(("gate_proj", "up_proj"), p.chunk(2), strict=True):
                state[name.replace("c_fc", kind)] = part
        else:
            state[name] = p
    missing, extra = theirs.load_state_dict(state, strict=False)
    assert not extra and not missing
    return theirs


LLAMAS = [
    {},
    {"qk_norm": False, "n_kv_head": 4},
    {"n_kv_head": 1, "head_dim": 6, "rope_theta": 500.0, "mlp_dim": 40},
    {"n_head": 3, "n_kv_head": 3, "n_embd": 30, "tie_embeddings": True},
]


@pytest.mark.parametrize(
    ("family", "changes"),
    [("gpt2", {}), ("gpt2", {"n_head": 3, "n_embd": 33})] + [("llama", c) for c in LLAMAS],
)
def test_logits_loss_and_gradients_equal_transformers(family: str, changes: dict) -> None:
    model = tiny_model(family, **changes)
    theirs = as_gpt2(model) if family == "gpt2" else as_llama(model)
    idx, targets = ids(2, 16), ids(2, 16, seed=2)
    logits, loss = model(idx, targets)
    expected = theirs(input_ids=idx).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    their_loss = torch.nn.functional.cross_entropy(expected.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(loss, their_loss, rtol=0, atol=1e-5)
    loss.backward()
    their_loss.backward()
    # the embedding's gradient has a part from every other weight, and one from a tied head
    ours = model.transformer["wte"].weight.grad
    torch.testing.assert_close(ours, theirs.get_input_embeddings().weight.grad, rtol=0, atol=1e-5)
    if family == "gpt2":
        gradients = dict(theirs.named_parameters())
        for name, p in model.named_parameters():
            expected = gradients[name].grad
            conv1d = p.dim() == 2 and name.split(".")[-2] in ("c_attn", "c_proj", "c_fc")
            expected = expected.T if conv1d else expected
            torch.testing.assert_close(p.grad, expected, rtol=0, atol=1e-5)
        return
    for ours, layer in zip(model.transformer["h"], theirs.model.layers, strict=True):
        pairs = [
            (ours.ln_1, layer.input_layernorm), (ours.attn.c_proj, layer.self_attn.o_proj),
            (ours.ln_2, layer.post_attention_layernorm), (ours.mlp.c_proj, layer.mlp.down_proj),
        ]  # fmt: skip
        for part, expected in pairs:
            torch.testing.assert_close(part.weight.grad, expected.weight.grad, rtol=0, atol=1e-5)
