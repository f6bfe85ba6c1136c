"""Row catalogue-top10: the ten most probable titles of the whole catalogue, for each user.

    python -m benchmarks.rows.catalogue [--quick]

The peer is transformers' beam search, ten beams kept to the catalogue by a trie of dictionaries. Its hypotheses are
ranked by the same sums of log-probabilities. Rosepo's search has ten beams, too, and beside it runs the exact one.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from benchmarks import material
from rosepo_core.api import Examples, Ints
from rosepo_core.engine.decoding import Trunks, decode
from rosepo_core.engine.prompt_trees import prompt_trunks
from rosepo_core.engine.title_trie import TitleTrie
from rosepo_core.prompts.template import PromptTemplate
from rosepo_core.testing.toys import SilentReporter

K = 10
WIDTH = 32
"""Beams read at once in the exact search, as `rosepo recommend` does."""


class DictTrie:
    """What a careful user of `prefix_allowed_tokens_fn` writes."""

    def __init__(self, responses: list[Ints], terminator: int) -> None:
        self.root: dict[int, Any] = {}
        self.terminator = terminator
        self.items = {tuple(response.tolist()): item for item, response in enumerate(responses)}
        for response in responses:
            node = self.root
            for token in response.tolist():
                node = node.setdefault(token, {})

    def allowed(self, width: int) -> Callable[[int, torch.Tensor], list[int]]:
        """The function for prompts of `width` tokens, padding included."""

        def after(batch: int, ids: torch.Tensor) -> list[int]:
            node = self.root
            for token in ids[width:].tolist():
                node = node.get(token, {})
            return list(node) or [self.terminator]

        return after


@torch.no_grad()
def by_generate(model: Any, prompts: PromptTemplate, trie: DictTrie, users: Examples, batch: int) -> Ints:
    """The titles that transformers finds, int32 [n, K]."""
    found = np.full((len(users), K), -1, dtype=np.int32)
    config = GenerationConfig(
        do_sample=False,
        num_beams=K,
        num_return_sequences=K,
        max_new_tokens=int(prompts.response_lengths.max()),
        # Titles of any length by their log-probability; with it the default rule ends where no beam can get better.
        length_penalty=0.0,
        early_stopping=False,
        eos_token_id=trie.terminator,
        pad_token_id=trie.terminator,
    )
    written = prompts.prompts(users)
    for start in range(0, len(written), batch):
        part = written[start : start + batch]
        width = max(map(len, part))
        ids = torch.full((len(part), width), trie.terminator)
        mask = torch.zeros(len(part), width, dtype=torch.long)
        for place, prompt in enumerate(part):
            ids[place, width - len(prompt) :] = torch.from_numpy(prompt)
            mask[place, width - len(prompt) :] = 1
        out = model.generate(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            prefix_allowed_tokens_fn=trie.allowed(width),
        )
        for place, tokens in enumerate(out[:, width:].tolist()):
            ended = tuple(tokens[: tokens.index(trie.terminator) + 1]) if trie.terminator in tokens else ()
            found[start + place // K, place % K] = trie.items.get(ended, -1)
    return found


def overlap(one: Ints, other: Ints) -> float:
    """Share of the titles of `one` that `other` has, too."""
    return float(np.mean([np.isin(mine, theirs).mean() for mine, theirs in zip(one, other, strict=True)]))


def run(quick: bool) -> dict[str, Any]:
    rounds, users, few = (1, 4, 1) if quick else (5, 8, 4)
    split, prompts, model = material.split(), material.template("timeline"), material.bare_model().eval()
    peer = material.bare_model("sdpa").eval()
    rng = np.random.default_rng(0)
    test = split.test.take(np.sort(rng.choice(len(split.test), users, replace=False)))
    trie, dictionaries = TitleTrie.of(prompts.response_ids), DictTrie(prompts.response_ids, prompts.terminator)
    read = 0

    def count(module: Any, inputs: Any, options: dict[str, Any], hidden: Any) -> None:
        nonlocal read
        read += options["input_ids"].numel()

    def search(exact: bool) -> tuple[Ints, float]:
        start = time.perf_counter()
        trunks = Trunks(*prompt_trunks(prompts, test))
        beams = WIDTH if exact else K
        found, _ = decode(
            model, trunks, trie, K, reporter=SilentReporter(), token_budget="auto", beams=beams, exact=exact
        )
        return found, len(test) / (time.perf_counter() - start)

    def generate(batch: int) -> tuple[Ints, float]:
        start = time.perf_counter()
        found = by_generate(peer, prompts, dictionaries, test.take(np.arange(few)), batch)
        return found, few / (time.perf_counter() - start)

    hook = model.get_decoder().register_forward_hook(count, with_kwargs=True)
    beam, _ = search(exact=False)
    hook.remove()
    exact, _ = search(exact=True)
    # Each token of a title that is read, and each prompt's last, has what comes after it scored.
    states = read - sum(map(len, prompts.prompts(test))) + len(test)
    speeds = {batch: generate(batch)[1] for batch in ((1,) if quick else (1, 4))}
    batch = max(speeds, key=lambda size: speeds[size])
    floor = material.Floor(model, backward=False)
    ours, beams, theirs = [], [], []
    for _ in range(rounds):
        ours.append(search(exact=True)[1])
        found, speed = generate(batch)
        theirs.append(speed)
        beams.append(search(exact=False)[1])
        floor.measure()
    exact_ratio = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
    return material.row(
        "catalogue-top10",
        f"top {K} of {len(trie):,} titles after timelines, {K} beams",
        "users/s",
        ours=beams,
        theirs=theirs,
        peer_name=f"generate, {K} beams, prefix function, batches of {batch}",
        target=6,
        floor=len(test) / floor.seconds(read, states),
        note=f"exact {statistics.median(ours):.2f} users/s, {exact_ratio:.1f} x; "
        f"{read / len(test):.0f} tokens a user read; of the exact {K}, the peer finds "
        f"{overlap(exact[:few], found):.0%} and rosepo's {K} beams {overlap(exact, beam):.0%}",
    )


if __name__ == "__main__":
    print(json.dumps(run("--quick" in sys.argv)))
