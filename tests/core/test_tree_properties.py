"""Whatever the trees hold and however they are padded, values and gradients are those of one sequence a response."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from rosepo_core.engine.log_probs import log_probs
from rosepo_core.engine.trees import TokenTree, TreeBatch

TOKENS = st.integers(0, 60)
RESPONSES = st.lists(st.tuples(st.integers(1, 9), st.lists(TOKENS, min_size=1, max_size=5)), min_size=1, max_size=6)
TREES = st.lists(st.tuples(st.lists(TOKENS, min_size=9, max_size=14), RESPONSES), min_size=1, max_size=4)


def grown(trunk: list[int], responses: list[tuple[int, list[int]]]) -> TokenTree:
    """A response that stands in the trunk where it is asked for gets no branch."""
    return TokenTree.grow(
        np.array(trunk, dtype=np.int32),
        rows=np.arange(len(responses)),
        columns=np.zeros(len(responses), dtype=np.int64),
        visible=np.array([visible for visible, _ in responses]),
        lengths=np.array([len(ids) for _, ids in responses]),
        targets=np.concatenate([ids for _, ids in responses]).astype(np.int32),
        in_trunk=np.array([trunk[visible : visible + len(ids)] == ids for visible, ids in responses]),
    )


@given(drawn=TREES, pad_left=st.booleans(), in_trunk=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_trees_are_plain_sequences(
    tiny_model: Any, drawn: list[Any], pad_left: bool, in_trunk: bool, seed: int
) -> None:
    if in_trunk:
        drawn = [(trunk, [*responses, (3, trunk[3:6])]) for trunk, responses in drawn]
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(copy.deepcopy(tiny_model), config).eval()
    adapter = [weight for weight in model.parameters() if weight.requires_grad]
    batch = TreeBatch.of([grown(*tree) for tree in drawn], 0, pad_left=pad_left)
    weights = torch.randn(len(batch.rows), generator=torch.Generator().manual_seed(seed))

    values = log_probs(model, batch)
    found = torch.autograd.grad((values * weights).sum(), adapter)

    expected = []
    for trunk, responses in drawn:
        for visible, ids in responses:
            tokens = torch.tensor([trunk[:visible] + ids])
            steps = model(input_ids=tokens).logits[0, visible - 1 : -1].log_softmax(-1)
            expected.append(steps.gather(1, torch.tensor(ids)[:, None]).sum())
    plain = torch.stack(expected)
    torch.testing.assert_close(values, plain, atol=1e-4, rtol=1e-5)
    for mine, other in zip(found, torch.autograd.grad((plain * weights).sum(), adapter), strict=True):
        scale = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(mine / scale, other / scale, atol=1e-4, rtol=0)
