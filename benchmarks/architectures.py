"""Which families of language models run in token trees, and which in rows: `docs/architectures.md`.

    python -m benchmarks.architectures

For each family a tiny model with random weights is made of its configuration alone, and the engine is asked how it
runs. `tests/core/test_architectures.py` compares the same models with plain transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rosepo_core.engine.preparation import Execution, prepared

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"

VOCABULARY = 61
WINDOW = 6

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_ALTERNATING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}
_EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}

_OWN_HEAD_SIZE = ("falcon", "mamba2")
"""Model types whose configuration derives the size of heads, or means another."""

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama, SmolLM2": ("llama", {}),
    "Mistral, sliding window": ("mistral", {"sliding_window": WINDOW}),
    "Mixtral": ("mixtral", {**_EXPERTS, "sliding_window": None}),
    "Ministral": ("ministral", _ALTERNATING),
    "Gemma": ("gemma", {}),
    "Gemma 2": (
        "gemma2",
        {**_ALTERNATING, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8},
    ),
    "Gemma 3": ("gemma3_text", {**_ALTERNATING, "query_pre_attn_scalar": 8}),
    "Qwen2, with `use_sliding_window`": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "Qwen3": ("qwen3", {}),
    "Qwen2-MoE": ("qwen2_moe", {**_EXPERTS, "shared_expert_intermediate_size": 24}),
    "Qwen3-Next": (
        "qwen3_next",
        {
            **_EXPERTS,
            "shared_expert_intermediate_size": 24,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
    ),
    "Phi": ("phi", {}),
    "Phi-3": ("phi3", {"sliding_window": WINDOW}),
    "GPT-2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    "GPT-Neo": (
        "gpt_neo",
        {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    ),
    "GPT-NeoX, Pythia": ("gpt_neox", {}),
    "GPT-J": ("gptj", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "rotary_dim": 4}),
    "OPT": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "Bloom": ("bloom", {"n_layer": 2, "n_head": 4}),
    "MPT": ("mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256, "expansion_ratio": 2}),
    "Falcon, rotary": ("falcon", {"alibi": False}),
    "Falcon, ALiBi": ("falcon", {"alibi": True, "new_decoder_architecture": False, "multi_query": True}),
    "Mamba": ("mamba", {"state_size": 8}),
    "Mamba 2": (
        "mamba2",
        {"state_size": 8, "num_heads": 4, "head_dim": 16, "expand": 2, "n_groups": 1, "chunk_size": 8},
    ),
    "RecurrentGemma": (
        "recurrent_gemma",
        {"lru_width": 32, "attention_window_size": WINDOW, "num_hidden_layers": 3},
    ),
    "Jamba": (
        "jamba",
        {**_EXPERTS, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8},
    ),
    "RWKV": ("rwkv", {"attention_hidden_size": 32, "context_length": 256}),
    "LFM2": ("lfm2", {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3}),
    "Falcon-H1": ("falcon_h1", {**_MAMBA, "mamba_d_ssm": 64}),
    "Granite 4, hybrid": (
        "granitemoehybrid",
        {**_MAMBA, **_EXPERTS, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 24},
    ),
    "Granite": ("granite", {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "attention_multiplier": 0.3}),
    "OLMo 2": ("olmo2", {}),
    "StableLM": ("stablelm", {}),
    "StarCoder2": ("starcoder2", {"sliding_window": WINDOW}),
    "Cohere Command R": ("cohere", {"logit_scale": 0.3}),
    "Cohere Command R7B": ("cohere2", {**_ALTERNATING, "logit_scale": 0.3}),
    "GLM-4": ("glm", {}),
    "GPT-OSS": ("gpt_oss", {**_ALTERNATING, **_EXPERTS}),
    "SmolLM3": ("smollm3", {}),
    "EXAONE 4": ("exaone4", _ALTERNATING),
    "DeepSeek-V3": (
        "deepseek_v3",
        {
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "moe_intermediate_size": 24,
            "q_lora_rank": 16,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 12,
            "first_k_dense_replace": 1,
            "num_key_value_heads": 4,
        },
    ),
    "Llama 4": (
        "llama4_text",
        {
            **_EXPERTS,
            "attention_chunk_size": WINDOW,
            "intermediate_size_mlp": 48,
            "layer_types": ["chunked_attention", "full_attention"],
            "no_rope_layers": [1, 0],
            "interleave_moe_layer_step": 2,
        },
    ),
    "MiniCPM3": (
        "minicpm3",
        {
            "q_lora_rank": 16,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "num_key_value_heads": 4,
            "dim_model_base": 8,
        },
    ),
}
"""By name: the model type, and its settings beside the common sizes."""


def make(family: str, **settings: Any) -> Any:
    """A model with weights wide enough that what a token sees matters."""
    kind, own = FAMILIES[family]
    head = {} if kind in _OWN_HEAD_SIZE else {"head_dim": 8}
    config = AutoConfig.for_model(kind, **{**_SIZES, **head, **own, **settings})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "norm" not in name:
            weight.normal_(0, 0.3, generator=generator)
    return model


def page(executions: dict[str, Execution]) -> str:
    """The text of `PAGE`, from how each family runs."""
    rows = [
        f"| {family} | `{FAMILIES[family][0]}` | {'trees' if found.trees else 'rows'} | {found.reason} |"
        for family, found in sorted(executions.items(), key=lambda each: each[0].lower())
    ]
    return "\n".join(
        [_INTRODUCTION, "| family | model type | runs in | why in rows |", "| --- " * 4 + "|", *rows, ""]
    )


_INTRODUCTION = """# Which models run how

A prompt and all the responses to it are one *tree* of tokens, read in one pass: the fast way. A model that a tree
cannot express reads each response in a *row* of its own: slower, and as right. rosepo finds out by itself which way a
model runs. It looks at the model's layers, and then compares the log-probabilities of a small tree with those of the
model's own forward pass, when it loads the model. A model that is not in this table is tested in the same way.

Sliding windows, chunks, caps on attention scores and attention sinks all work in trees. The search over a catalogue
and free answers follow the same choice. Prompt-learning adapters of PEFT (prefix tuning, prompt tuning, p-tuning) run
in rows on every model.

`python -m benchmarks.architectures` writes this page, from tiny models made of each family's configuration.
"""


def main() -> None:
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page({family: prepared(make(family)) for family in FAMILIES}), encoding="utf-8")


if __name__ == "__main__":
    main()
