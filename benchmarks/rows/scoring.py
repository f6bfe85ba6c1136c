"""Row score-20: the log-probabilities of 20 candidates of each user.

    python -m benchmarks.rows.scoring [--quick]

The peer writes one sequence a candidate, a user's 20 in one padded batch, and like rosepo gives only the positions
before response tokens to the head.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import torch

from benchmarks import material
from rosepo_core.api import Examples, Ints
from rosepo_core.engine.prompt_trees import prompt_trees
from rosepo_core.engine.scoring import score_items
from rosepo_core.prompts.template import PromptTemplate
from rosepo_core.testing.toys import SilentReporter

CANDIDATES = 20


@torch.no_grad()
def by_sequence(model: Any, prompts: PromptTemplate, users: Examples, items: Ints) -> torch.Tensor:
    """Log-probability of each item, float32 [n, m]."""
    scores = torch.empty(items.shape)
    for row, prompt in enumerate(prompts.prompts(users)):
        scores[row] = _scored(model, [prompt] * items.shape[1], [prompts.response_ids[item] for item in items[row]])
    return scores


@torch.no_grad()
def in_one_pass(model: Any, prompts: PromptTemplate, users: Examples, items: Ints) -> torch.Tensor:
    """The same, all users in one pass: float32 [n, m]."""
    before = [prompt for prompt in prompts.prompts(users) for _ in range(items.shape[1])]
    return _scored(model, before, [prompts.response_ids[item] for item in items.ravel()]).view(items.shape)


def _scored(model: Any, before: list[Ints], responses: list[Ints]) -> torch.Tensor:
    """Log-probability of each response after its prompt, in one padded pass: float32 [sequences]."""
    lengths = [len(prompt) + len(response) for prompt, response in zip(before, responses, strict=True)]
    ids = torch.zeros(len(before), max(lengths), dtype=torch.long)
    for place, (prompt, response) in enumerate(zip(before, responses, strict=True)):
        ids[place, : lengths[place]] = torch.from_numpy(np.concatenate([prompt, response]))
    ids = ids.to(model.device)
    first = min(map(len, before))
    # Padding is on the right, where causal attention never looks from a token that counts.
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[:, first - 1 : -1]
    logits = model.lm_head(hidden).float()
    steps = logits.gather(2, ids[:, first:, None])[..., 0] - logits.logsumexp(-1)
    column = torch.arange(first, max(lengths), device=ids.device)
    starts, ends = (torch.tensor(each, device=ids.device)[:, None] for each in ([*map(len, before)], lengths))
    return (steps * ((column >= starts) & (column < ends))).sum(1).cpu()


def run(quick: bool) -> dict[str, Any]:
    rounds, users = (1, 1) if quick else (5, 2)
    split, prompts, model = material.split(), material.template("timeline"), material.bare_model()
    peer = material.bare_model("sdpa")
    rng = np.random.default_rng(0)
    test = split.test.take(np.sort(rng.choice(len(split.test), 8, replace=False)))
    items = rng.integers(0, len(split.catalogue), (len(test), CANDIDATES)).astype(np.int32)
    few = test.take(np.arange(users))
    trees = prompt_trees(prompts, test, items)
    floor = material.Floor(model, backward=False)
    ours, theirs, apart = [], [], 0.0
    for warm_up in (True, *[False] * rounds):
        start = time.perf_counter()
        scores = score_items(model, prompts, test, items, 4096, SilentReporter())
        mine = len(test) / (time.perf_counter() - start)
        start = time.perf_counter()
        expected = by_sequence(peer, prompts, few, items[:users])
        other = users / (time.perf_counter() - start)
        apart = float(np.abs(scores[:users] - expected.numpy()).max())
        if not warm_up:
            ours.append(mine)
            theirs.append(other)
            floor.measure()
    tokens = sum(map(len, trees)) / len(test)
    states = sum(len(np.unique(tree.parents)) for tree in trees) / len(test)
    return material.row(
        "score-20",
        f"scoring {CANDIDATES} candidates after timelines",
        "users/s",
        ours=ours,
        theirs=theirs,
        peer_name="one sequence a candidate, batches of 20",
        target=8,
        floor=1 / floor.seconds(tokens, states),
        note=f"{tokens:.0f} tokens a user in trees; scores at most {apart:.2f} apart",
    )


if __name__ == "__main__":
    print(json.dumps(run("--quick" in sys.argv)))
