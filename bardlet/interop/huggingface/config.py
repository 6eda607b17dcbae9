"""transformers' config.json of a model of ours, and ours of theirs: one table for both ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bardlet.errors import CheckpointError
from bardlet.interop.tensor_names import MAX_SIZE, architecture, contradictions
from bardlet.model import GPTConfig

CLASSES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM",
           "qwen3": "Qwen3ForCausalLM"}  # fmt: skip
# their key, our field, and their value where the key is left out; None: it is required
GPT2 = (
    ("vocab_size", "vocab_size", 50257),
    ("n_positions", "block_size", 1024),
    ("n_embd", "n_embd", 768),
    ("n_layer", "n_layer", 12),
    ("n_head", "n_head", 12),
    ("n_inner", "mlp_dim", 0),
    ("layer_norm_epsilon", "norm_eps", 1e-5),
)
LLAMA = (
    ("vocab_size", "vocab_size", None),
    ("max_position_embeddings", "block_size", None),
    ("hidden_size", "n_embd", None),
    ("num_hidden_layers", "n_layer", None),
    ("num_attention_heads", "n_head", None),
    ("num_key_value_heads", "n_kv_head", 0),
    ("head_dim", "head_dim", 0),
    ("intermediate_size", "mlp_dim", None),
    ("rms_norm_eps", "norm_eps", 1e-6),
    ("tie_word_embeddings", "tie_embeddings", False),
)
QWEN3 = tuple(
    (key, field, {"num_key_value_heads": 32, "head_dim": 128}.get(key, default))
    for key, field, default in LLAMA
)
QWEN2 = tuple(
    (key, field, {"num_key_value_heads": 32}.get(key, default)) for key, field, default in LLAMA
)
# read as llama, which it is up to its sliding window
MISTRAL = tuple(
    (key, field, {"num_key_value_heads": 8}.get(key, default)) for key, field, default in LLAMA
)
MISTRAL_WINDOW = 4096  # where a config.json does not say
TABLES = {"gpt2": GPT2, "llama": LLAMA, "qwen3": QWEN3, "qwen2": QWEN2, "mistral": MISTRAL}
# what their models can do and ours cannot: the one value that is supported, their default
FIXED: dict[str, dict[str, Any]] = {
    "gpt2": {
        "tie_word_embeddings": True, "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False,
    },
    "llama": {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
              "pretraining_tp": 1},
    "mistral": {"hidden_act": "silu"},
    "qwen2": {"hidden_act": "silu", "use_sliding_window": False},
    "qwen3": {"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False},
}  # fmt: skip
GELU = {"gelu": "none", "gelu_python": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}


def to_hf(config: GPTConfig) -> dict[str, Any]:
    """The config.json with which transformers builds this model."""
    kind = architecture(config)
    derived = {"mlp_dim": config.mlp_size, "head_dim": config.head_size,
               "n_kv_head": config.kv_heads}  # fmt: skip
    own = {key: derived.get(f, getattr(config, f)) for key, f, _ in TABLES[kind]}
    document = {"architectures": [CLASSES[kind]], "model_type": kind, **own, **FIXED[kind]}
    if kind == "gpt2":
        document["activation_function"] = (
            "gelu" if config.gelu_approximate == "none" else "gelu_new"
        )
        for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
            document[name] = config.dropout
    else:
        rope = {"rope_type": "default", "rope_theta": config.rope_theta}
        # the second name is that of transformers before version 5, and of most other programs
        document.update(rope_parameters=rope, rope_theta=config.rope_theta)
    return {**document, "dtype": "float32", "use_cache": True}


def from_hf(document: Mapping[str, Any], source: object) -> GPTConfig:
    """Our configuration of a config.json, which `source` names in messages.

    Raises CheckpointError naming every key that is missing, of a wrong type, or asks for what
    our models cannot do.
    """
    kind = document.get("model_type")
    if not isinstance(kind, str) or kind not in TABLES:
        raise CheckpointError(
            f"{source} is of the architecture {kind!r}", f"Known are {', '.join(TABLES)}"
        )
    values: dict[str, Any] = {}
    problems = []
    for key, field, default in TABLES[kind]:
        value = document.get(key)
        value = default if value is None else value
        wanted = type(getattr(GPTConfig, field))
        fits = type(value) is wanted or (wanted is float and type(value) is int)
        if value is None:
            problems.append(f"{key} is missing")
        elif not fits or not 0 <= value <= MAX_SIZE:
            problems.append(f"invalid value {key}={value!r}")
        values[field] = value
    for key, value in FIXED[kind].items():
        if document.get(key, value) != value:
            problems.append(f"{key}={document[key]!r} is not supported, only {value!r}")
    if document.get("quantization_config"):
        problems.append("quantization_config is not supported: take the model it was made of")
    layers = document.get("layer_types") or []
    known = ("full_attention", "sliding_attention") if kind == "mistral" else ("full_attention",)
    if not isinstance(layers, list):
        problems.append(f"invalid value layer_types={layers!r}")
        layers = []
    problems += [f"layer_types={t!r} is not supported" for t in layers if t not in known][:1]
    if kind == "gpt2":
        values["bias"] = True
        activation = document.get("activation_function", "gelu_new")
        if isinstance(activation, str) and activation in GELU:
            values["gelu_approximate"] = GELU[activation]
        else:
            problems.append(f"activation_function={activation!r} is not one of {', '.join(GELU)}")
    else:
        values.update(family="llama", qk_norm=kind == "qwen3", qkv_bias=kind == "qwen2")
        problems += rope(document, values)
        if kind == "mistral":
            problems += window(document, values)
    if not problems:
        problems += contradictions(GPTConfig(**values))
    if problems:
        raise CheckpointError(f"{source} cannot be read as a {kind} model: {'; '.join(problems)}")
    return GPTConfig(**values)


def window(document: Mapping[str, Any], values: dict[str, Any]) -> list[str]:
    """Shorten the context in `values` to a sliding window, up to which it changes nothing."""
    size = document.get("sliding_window", MISTRAL_WINDOW)
    if size is None:
        return []
    if type(size) is not int or size < 1:
        return [f"invalid value sliding_window={size!r}"]
    if type(values["block_size"]) is int:
        values["block_size"] = min(values["block_size"], size)
    return []


def rope(document: Mapping[str, Any], values: dict[str, Any]) -> list[str]:
    """Read the rotary wavelengths' base into `values`; return what is not supported of the rest."""
    problems = []
    for key in ("rope_scaling", "rope_parameters"):
        params = document.get(key) or {}
        if not isinstance(params, dict):
            problems.append(f"invalid value {key}={params!r}")
            continue
        kind = params.get("rope_type", params.get("type", "default"))
        if kind != "default":
            problems.append(f"{key} of the type {kind!r} is not supported, only 'default'")
        if params.get("partial_rotary_factor", 1.0) != 1.0:
            problems.append(f"{key}: partial_rotary_factor is not supported")
        values["rope_theta"] = params.get("rope_theta", values.get("rope_theta"))
    theta = values["rope_theta"] or document.get("rope_theta", 10000.0)
    if type(theta) not in (int, float) or not 1 <= theta < float("inf"):
        problems.append(f"invalid value rope_theta={theta!r}")
    else:
        values["rope_theta"] = float(theta)
    return problems
