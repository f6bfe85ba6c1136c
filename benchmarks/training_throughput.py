"""How fast SmolLM2-135M trains on this machine each way, and what each change is worth.

    python benchmarks/training_throughput.py                              # wall clock, all cores
    python benchmarks/training_throughput.py --threads 1 --clock cpu      # where others use the machine as well

One training step (forward, backward, AdamW) of 8 x 240 tokens with the loss on every token. The ways take turns, a
step each and round after round, so that a busy machine slows all of them alike; a ratio is the median over the rounds
of the first way's seconds divided by this one's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional

from rosepo_core.engine.adapters import fuse_adapters
from rosepo_core.engine.attention import NAME as BLOCKS
from rosepo_core.engine.head import frozen_head_log_probs
from rosepo_core.engine.models import load_model

Loss = Callable[[Any, Tensor], Tensor]
Step = Callable[[Tensor], Tensor]

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LINEAR = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]


class Silent:
    def progress(self, done: int, total: int, unit: str) -> None:
        pass

    def note(self, message: str) -> None:
        pass


def transformers_loss(model: Any, ids: Tensor) -> Tensor:
    return model(input_ids=ids, labels=ids, use_cache=False).loss


def frozen_head_loss(model: Any, ids: Tensor) -> Tensor:
    bare = model.get_base_model()
    hidden = bare.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    weight, targets = bare.get_output_embeddings().weight, ids[:, 1:].flatten()
    return -frozen_head_log_probs(hidden, weight, targets, torch.arange(len(targets))).mean()


def full_loss(model: Any, ids: Tensor) -> Tensor:
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1)
    return functional.cross_entropy(logits.float(), ids[:, 1:].flatten())


def way(
    *,
    fused: bool = True,
    loss: Loss = frozen_head_loss,
    attention: str = BLOCKS,
    dtype: str = "bfloat16",
    modules: Sequence[str] | None = LINEAR,
    upper_half: bool = False,
    adapter_in_float32: bool = True,
    compiled: bool = False,
) -> Callable[[], Step]:
    """One way to train. `modules` None trains all the weights; `upper_half` adapts the second half of the layers."""

    def build() -> Step:
        torch.manual_seed(0)
        model: Any = load_model("smollm2-135m", dtype, Silent())[0]
        model.set_attn_implementation(attention)
        if modules is None:
            model.requires_grad_(True)
        else:
            layers = range(model.config.num_hidden_layers)
            config = LoraConfig(
                r=16,
                lora_alpha=32,
                target_modules=list(modules),
                layers_to_transform=[*layers[len(layers) // 2 :]] if upper_half else None,
                layers_pattern="layers" if upper_half else None,
                task_type="CAUSAL_LM",
            )
            model = get_peft_model(model, config, autocast_adapter_dtype=adapter_in_float32)
        if fused:
            fuse_adapters(model)
        model.train()
        optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=5e-4)
        run = torch.compile(model) if compiled else model

        def step(ids: Tensor) -> Tensor:
            value = loss(run, ids)
            value.backward()
            optimizer.step()
            optimizer.zero_grad()
            return value.detach()

        return step

    return build


PLAIN: dict[str, Any] = {"fused": False, "loss": transformers_loss, "attention": "sdpa"}
WAYS: dict[str, Callable[[], Step]] = {
    "PEFT and transformers as they are": way(**PLAIN),
    "the same in float32": way(**PLAIN, dtype="float32"),
    "the same, adapter in bfloat16": way(**PLAIN, adapter_in_float32=False),
    "the same, compiled": way(**PLAIN, compiled=True),
    "the same, eager attention": way(**PLAIN | {"attention": "eager"}),
    "the same, attention in blocks": way(**PLAIN | {"attention": BLOCKS}),
    "the same, fused adapters": way(**PLAIN | {"fused": True}),
    "the same, frozen head": way(**PLAIN | {"loss": frozen_head_loss}),
    "rosepo (the last three)": way(),
    "rosepo, only attention adapted": way(modules=ATTENTION),
    "rosepo, upper half adapted": way(upper_half=True),
    "all weights in bfloat16": way(fused=False, loss=full_loss, modules=None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=240)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--only", nargs="*", help="names of ways, beside the first")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.perf_counter if arguments.clock == "wall" else time.process_time

    names = [name for index, name in enumerate(WAYS) if index == 0 or not arguments.only or name in arguments.only]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(17, 49152, (arguments.batch, arguments.length), generator=generator)
    steps: dict[str, Step] = {}
    for name in names:
        start = time.perf_counter()
        steps[name] = WAYS[name]()
        loss = float(steps[name](ids))
        print(f"{name}: first step took {time.perf_counter() - start:.0f} s, loss {loss:.4f}", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(arguments.rounds):
        for name in names:
            start = clock()
            steps[name](ids)
            seconds[name].append(clock() - start)

    ratios = {
        name: statistics.median(base / mine for base, mine in zip(seconds[names[0]], seconds[name], strict=True))
        for name in names
    }
    print(f"\n{arguments.batch} x {arguments.length} tokens, {arguments.threads} threads, {arguments.clock} clock")
    print(f"{'way':34s} {'tokens/s':>9s} {'ratio':>6s}")
    for name in sorted(names, key=ratios.__getitem__, reverse=True):
        print(f"{name:34s} {ids.numel() / statistics.median(seconds[name]):9.0f} {ratios[name]:6.2f}")


if __name__ == "__main__":
    main()
