"""Tiny models of many families, with random weights, from their configurations alone."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

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
    "llama": ("llama", {}),
    "mistral, window": ("mistral", {"sliding_window": WINDOW}),
    "mixtral": ("mixtral", {**_EXPERTS, "sliding_window": None}),
    "ministral, window": ("ministral", _ALTERNATING),
    "gemma": ("gemma", {}),
    "gemma2, window and cap": (
        "gemma2",
        {**_ALTERNATING, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8},
    ),
    "gemma3, window": ("gemma3_text", {**_ALTERNATING, "query_pre_attn_scalar": 8}),
    "qwen2, window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {}),
    "qwen2-moe": ("qwen2_moe", {**_EXPERTS, "shared_expert_intermediate_size": 24}),
    "qwen3-next": (
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
    "phi": ("phi", {}),
    "phi3, window": ("phi3", {"sliding_window": WINDOW}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    "gpt-neo, local": (
        "gpt_neo",
        {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    ),
    "gpt-neox": ("gpt_neox", {}),
    "gptj": ("gptj", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "rotary_dim": 4}),
    "opt": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "bloom": ("bloom", {"n_layer": 2, "n_head": 4}),
    "mpt": ("mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256, "expansion_ratio": 2}),
    "falcon, rotary": ("falcon", {"alibi": False}),
    "falcon, alibi": ("falcon", {"alibi": True, "new_decoder_architecture": False, "multi_query": True}),
    "mamba": ("mamba", {"state_size": 8}),
    "mamba2": (
        "mamba2",
        {"state_size": 8, "num_heads": 4, "head_dim": 16, "expand": 2, "n_groups": 1, "chunk_size": 8},
    ),
    "recurrent-gemma": (
        "recurrent_gemma",
        {"lru_width": 32, "attention_window_size": WINDOW, "num_hidden_layers": 3},
    ),
    "jamba": (
        "jamba",
        {**_EXPERTS, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8},
    ),
    "rwkv": ("rwkv", {"attention_hidden_size": 32, "context_length": 256}),
    "lfm2": ("lfm2", {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3}),
    "falcon-h1": ("falcon_h1", {**_MAMBA, "mamba_d_ssm": 64}),
    "granite-hybrid": (
        "granitemoehybrid",
        {**_MAMBA, **_EXPERTS, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 24},
    ),
    "granite": ("granite", {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "attention_multiplier": 0.3}),
    "olmo2": ("olmo2", {}),
    "stablelm": ("stablelm", {}),
    "starcoder2, window": ("starcoder2", {"sliding_window": WINDOW}),
    "cohere": ("cohere", {"logit_scale": 0.3}),
    "cohere2, window": ("cohere2", {**_ALTERNATING, "logit_scale": 0.3}),
    "glm": ("glm", {}),
    "gpt-oss, window and sinks": ("gpt_oss", {**_ALTERNATING, **_EXPERTS}),
    "smollm3": ("smollm3", {}),
    "exaone4, window": ("exaone4", _ALTERNATING),
    "deepseek-v3": (
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
    "llama4, chunks": (
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
    "minicpm3": (
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
