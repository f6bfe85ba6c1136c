"""The losses over pairs against TRL 1.16, formulas written out anew, and numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rosepo_core.api import LogProbs, PreferenceLoss
from rosepo_core.contracts.errors import RequestError
from rosepo_core.plugins.registry import load_plugins
from rosepo_losses.apo_down import APODown
from rosepo_losses.apo_zero import APOZero
from rosepo_losses.cpo import CPO
from rosepo_losses.dpo import DPO, DPOOptions
from rosepo_losses.exo import EXO
from rosepo_losses.hinge import Hinge
from rosepo_losses.ipo import IPO, IPOOptions
from rosepo_losses.nca import NCA
from rosepo_losses.orpo import ORPO
from rosepo_losses.rosepo import RosePO, RosePOOptions
from rosepo_losses.simpo import SimPO
from rosepo_losses.sppo import SPPO

ALL = [DPO, IPO, RosePO, Hinge, SimPO, CPO, ORPO, APOZero, APODown, SPPO, EXO, NCA]
CHOSEN_LENGTHS = torch.tensor([3, 1, 5, 2])
REJECTED_LENGTHS = torch.tensor([2, 4, 1, 6])


def log_probs(rows: int, slots: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> LogProbs:
    """Random log-probabilities with all slots valid; the policy's four tensors want gradients."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return -10 * torch.rand(*shape, generator=random, dtype=dtype)

    return LogProbs(
        chosen=draw(rows).requires_grad_(),
        rejected=draw(rows, slots).requires_grad_(),
        reference_chosen=draw(rows),
        reference_rejected=draw(rows, slots),
        chosen_tokens=torch.randint(1, 9, (rows,), generator=random),
        rejected_tokens=torch.randint(1, 9, (rows, slots), generator=random),
        eps=0.49 * torch.rand(rows, slots, generator=random, dtype=dtype),
        valid=torch.ones(rows, slots, dtype=torch.bool),
    )


def one_pair() -> LogProbs:
    """A chosen response of 2 tokens with r = 2, a rejected one of 4 tokens with r = -1, and eps 0.2."""
    return LogProbs(
        chosen=torch.tensor([-4.0], dtype=torch.float64, requires_grad=True),
        rejected=torch.tensor([[-6.0]], dtype=torch.float64, requires_grad=True),
        reference_chosen=torch.tensor([-6.0], dtype=torch.float64),
        reference_rejected=torch.tensor([[-5.0]], dtype=torch.float64),
        chosen_tokens=torch.tensor([2]),
        rejected_tokens=torch.tensor([[4]]),
        eps=torch.tensor([[0.2]], dtype=torch.float64),
        valid=torch.ones(1, 1, dtype=torch.bool),
    )


def loss_named(name: str, **options: Any) -> PreferenceLoss:
    """A first-party loss."""
    made: PreferenceLoss = load_plugins().create("loss", f"rosepo/{name}", options)
    return made


class GivenLogProbs(torch.nn.Module):
    """Stands where TRL expects a causal language model and answers with the token log-probabilities it was made with,
    so that TRL's trainer and ours judge the same numbers, and both gradients can be read off."""

    def __init__(self, token_log_probs: torch.Tensor) -> None:
        super().__init__()
        self.token_log_probs = torch.nn.Parameter(token_log_probs)

    def forward(self, labels: torch.Tensor, **_: Any) -> SimpleNamespace:
        answers = labels[:, 1:] != -100
        zeros = torch.zeros_like(self.token_log_probs)
        return SimpleNamespace(
            log_probs=self.token_log_probs * answers,
            entropy=zeros.detach(),
            mean_logits=zeros.detach(),
            is_top1=torch.zeros_like(answers),
        )


@pytest.fixture(scope="module")
def trl_loss(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """``trl_loss(loss_type, beta, log_probs..., label_smoothing)``: DPOTrainer.compute_loss and its gradients."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "a": 2, "b": 3}, unk_token="<eos>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<pad>")
    shape = LlamaConfig(
        vocab_size=4, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, pad_token_id=0
    )
    rows = Dataset.from_list([{"prompt": "a", "chosen": " b", "rejected": " a"}])

    @cache
    def make_trainer(loss_type: str, beta: float, label_smoothing: float) -> DPOTrainer:
        config = DPOConfig(
            output_dir=str(tmp_path_factory.mktemp("trl")),
            loss_type=[loss_type],
            beta=beta,
            label_smoothing=label_smoothing,
            precompute_ref_log_probs=True,
            report_to=[],
            use_cpu=True,
        )
        return DPOTrainer(LlamaForCausalLM(shape), args=config, train_dataset=rows, processing_class=tokenizer)

    def compute(
        loss_type: str,
        beta: float,
        token_log_probs: torch.Tensor,
        answers: torch.Tensor,
        reference: tuple[torch.Tensor, torch.Tensor],
        label_smoothing: float = 0.0,
    ) -> tuple[float, torch.Tensor]:
        trainer = make_trainer(loss_type, beta, label_smoothing)
        given = GivenLogProbs(token_log_probs)
        batch = {
            "input_ids": torch.full(answers.shape, 2),
            "attention_mask": torch.ones_like(answers, dtype=torch.long),
            "completion_mask": answers.long(),
            "ref_chosen_logps": reference[0],
            "ref_rejected_logps": reference[1],
        }
        loss = trainer.compute_loss(given, batch)
        loss.backward()
        assert given.token_log_probs.grad is not None
        return loss.item(), given.token_log_probs.grad

    return compute


def token_level_case(rows: int = 4) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Token log-probabilities [2 rows, 7] as TRL lays them out (chosen rows first), its answer mask [2 rows, 8] and
    the reference's sums; prompts of two tokens, answers of the lengths above, padding after them."""
    random = torch.Generator().manual_seed(7)
    lengths = torch.cat([CHOSEN_LENGTHS[:rows], REJECTED_LENGTHS[:rows]])
    place = torch.arange(8)
    answers = (place >= 2) & (place < 2 + lengths[:, None])
    token_log_probs = -3 * torch.rand(2 * rows, 7, generator=random)
    reference = (-8 * torch.rand(rows, generator=random), -8 * torch.rand(rows, generator=random))
    return token_log_probs, answers, reference


def ours(
    loss: PreferenceLoss,
    token_log_probs: torch.Tensor,
    answers: torch.Tensor,
    reference: tuple[torch.Tensor, torch.Tensor],
    eps: float = 0.0,
) -> tuple[float, torch.Tensor]:
    """Mean of `loss` and its gradient in the token log-probabilities."""
    leaf = token_log_probs.clone().requires_grad_()
    chosen, rejected = (leaf * answers[:, 1:]).sum(1).chunk(2)
    chosen_tokens, rejected_tokens = answers.sum(1).chunk(2)
    value = loss(
        LogProbs(
            chosen=chosen,
            rejected=rejected[:, None],
            reference_chosen=reference[0],
            reference_rejected=reference[1][:, None],
            chosen_tokens=chosen_tokens,
            rejected_tokens=rejected_tokens[:, None],
            eps=torch.full((len(chosen), 1), eps),
            valid=torch.ones(len(chosen), 1, dtype=torch.bool),
        )
    ).mean()
    value.backward()
    assert leaf.grad is not None
    return value.item(), leaf.grad


TRL_NAMES = ("sigmoid", "ipo", "hinge", "exo_pair", "nca_pair", "sppo_hard", "apo_zero", "apo_down")


@pytest.mark.parametrize("beta", [0.1, 0.7])
@pytest.mark.parametrize("loss_type", TRL_NAMES)
def test_trls_names_give_trls_loss_and_gradient(trl_loss: Any, loss_type: str, beta: float) -> None:
    case, smoothing = token_level_case(), 1e-3 if loss_type == "exo_pair" else 0.0

    theirs, their_gradient = trl_loss(loss_type, beta, *case, label_smoothing=smoothing)
    mine, my_gradient = ours(loss_named(loss_type, beta=beta), *case)

    assert mine == pytest.approx(theirs, rel=1e-6)
    assert their_gradient.abs().max() > 1e-3
    torch.testing.assert_close(my_gradient, their_gradient, rtol=1e-5, atol=1e-8)


def test_the_robust_variant_equals_trls(trl_loss: Any) -> None:
    case = token_level_case()
    theirs, their_gradient = trl_loss("robust", 0.5, *case, label_smoothing=0.2)
    for options, eps in (({"smoothing": "oracle"}, 0.2), ({"smoothing": "constant", "epsilon": 0.2}, 0.9)):
        mine, my_gradient = ours(loss_named("rosepo", beta=0.5, variant="robust", **options), *case, eps=eps)

        assert mine == pytest.approx(theirs, rel=1e-5)
        torch.testing.assert_close(my_gradient, their_gradient, rtol=1e-5, atol=1e-7)


def test_sft_equals_trls_for_one_pair_at_a_time(trl_loss: Any) -> None:
    """TRL's mean is over all tokens of the batch, and that of a batch of one pair over those of one title."""
    token_log_probs, answers, (reference_chosen, reference_rejected) = token_level_case()
    for row in range(4):
        pair, alone = torch.tensor([row, row + 4]), slice(row, row + 1)
        case = token_log_probs[pair], answers[pair], (reference_chosen[alone], reference_rejected[alone])
        theirs, their_gradient = trl_loss("sft", 0.1, *case)
        mine, my_gradient = ours(loss_named("sft"), *case)

        assert mine == pytest.approx(theirs, rel=1e-6)
        torch.testing.assert_close(my_gradient, their_gradient, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "options", "value", "slopes"),
    [
        # max(0, 1 - 0.2 * 3) = 0.4
        ("hinge", {"beta": 0.2}, 0.4, (-0.2, 0.2)),
        # beyond the margin of 1 / 0.5 = 2 nats
        ("hinge", {}, 0.0, (0.0, 0.0)),
        # (2 - 1)^2 + (-1 + 1)^2 with 1 / (2 * 0.5) = 1
        ("sppo", {}, 1.0, (2.0, 0.0)),
        # 1 - sigmoid(1) + sigmoid(-0.5) = 0.2689414214 + 0.3775406688; slopes -0.5 * 0.1966119332, 0.5 * 0.2350037122
        ("apo-zero", {}, 0.6464820902, (-0.0983059666, 0.1175018561)),
        # sigmoid(1) + 1 - sigmoid(1.5) = 0.7310585786 + 0.1824255238;
        # slopes 0.5 * (0.1966119332 - 0.1491464521), 0.5 * 0.1491464521
        ("apo-down", {}, 0.9134841024, (0.0237327406, 0.0745732260)),
        # 0.3132616875 + 1.3132616875 / 2 + 0.4740769842 / 2; slopes 0.5 * (0.7310585786 / 2 - 0.2689414214) and
        # 0.5 * 0.3775406688 / 2
        ("nca", {}, 1.2069310234, (0.0482939340, 0.0943851672)),
        # q = 0.8175744762: q (log q - log 0.999) + (1 - q) (log(1 - q) - log 0.001)
        #   = 0.8175744762 (-0.2014132780 + 0.0010005003) + 0.1824255238 (-1.7014132780 + 6.9077552790)
        ("exo", {}, 0.7859172949, None),
        # the same with 0.2 for 0.001: q is nearly (0.8, 0.2) already
        ("exo", {"smoothing": "oracle"}, 0.0009874626, None),
        # 0.8 * 0.2014132780 + 0.2 * 1.7014132780
        ("dpo", {"smoothing": "constant", "epsilon": 0.2}, 0.5014132780, None),
        # (0.8 * 0.2014132780 - 0.2 * 1.7014132780) / 0.6
        ("rosepo", {"variant": "robust"}, -0.2985867220, None),
        # h = 2 / 2 + 1 / 4 = 1.25, and swapped -1.25: 0.8 * 0.25^2 + 0.2 * 2.25^2
        ("ipo", {"smoothing": "oracle"}, 1.0625, None),
    ],
)
def test_one_pair_worked_out_by_hand(name: str, options: Any, value: float, slopes: Any) -> None:
    """r_w = -4 - -6 = 2 over 2 tokens, r_l = -6 - -5 = -1 over 4 tokens, beta 0.5, so Delta = 0.5 * 3 = 1.5. The
    oracle's eps is 0.2.

    sigmoid(1.5) = 0.8175744762, log sigmoid(1.5) = -0.2014132780 and log sigmoid(-1.5) = -1.7014132780.
    """
    given = one_pair()
    loss = loss_named(name, **{"beta": 0.5, **options})(given)
    loss.sum().backward()

    assert loss.tolist() == pytest.approx([value], abs=1e-9)
    if slopes is not None:
        assert given.chosen.grad is not None
        assert given.rejected.grad is not None
        assert (given.chosen.grad.item(), given.rejected.grad.item()) == pytest.approx(slopes, abs=1e-9)


def test_an_oracle_above_one_half_does_not_turn_the_robust_variant_around() -> None:
    """0.6 counts as 0.45: (0.55 * 0.2014132780 - 0.45 * 1.7014132780) / 0.1."""
    given = LogProbs(**{**vars(one_pair()), "eps": torch.tensor([[0.6]], dtype=torch.float64)})
    loss = loss_named("rosepo", beta=0.5, variant="robust")(given)
    assert loss.item() == pytest.approx(-6.5485867220, abs=1e-8)


def test_rewards_are_logged_as_the_loss_compares_them() -> None:
    expected = {"dpo": (1.0, -0.5), "kto": (1.0, -0.5), "cpo": (-2.0, -3.0), "simpo": (-1.0, -0.75)}
    expected |= {"orpo": (-1.0, -0.75), "mppo": (0.5 * math.exp(-2), 0.5 * math.exp(-1.5))}
    for name, rewards in expected.items():
        chosen, rejected = loss_named(name, beta=0.5).rewards(one_pair())
        assert (chosen.item(), rejected.item()) == pytest.approx(rewards, abs=1e-9), name


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dpo", {"epsilon": 0.2}, "option 'loss.epsilon' = 0.2: value error, it is read with smoothing = 'constant'"),
        ("rosepo", {"epsilon": 0.2}, "option 'loss.epsilon' = 0.2: value error, it is read with smoothing ="),
        ("dpo", {"variant": "robust"}, "option 'loss.variant' = 'robust': value error, without smoothing there is"),
        ("dpo", {"smoothing": "constant", "epsilon": 0.5}, "option 'loss.epsilon' = 0.5: input should be less than"),
    ],
)
def test_options_that_nothing_reads_are_refused(name: str, options: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        loss_named(name, **options)
    assert str(caught.value).startswith(message)


def test_only_smoothing_by_the_oracle_needs_the_oracle() -> None:
    smoothed = ("rosepo", "dpo", "ipo", "hinge", "simpo", "cpo", "orpo", "apo-zero", "apo-down", "sppo", "exo", "nca")
    for name in (*smoothed, "s-dpo"):
        assert loss_named(name, smoothing="oracle").needs_smoothing
        assert not loss_named(name, smoothing="constant").needs_smoothing
        assert loss_named(name).needs_smoothing == (name == "rosepo")


def test_rosepo_with_one_eps_equals_trls_label_smoothing(trl_loss: Any) -> None:
    """TRL 1.16 no longer smooths its sigmoid loss. Its AOT loss on a batch of one pair does: there is nothing to
    sort, and -(1 - s) log sigmoid(beta d) - s log sigmoid(-beta d) is left, which is conservative DPO."""
    token_log_probs, answers, (reference_chosen, reference_rejected) = token_level_case()
    for row in range(4):
        pair = torch.tensor([row, row + 4])
        case = (
            token_log_probs[pair],
            answers[pair],
            (reference_chosen[row : row + 1], reference_rejected[row : row + 1]),
        )
        theirs, their_gradient = trl_loss("aot", 0.5, *case, label_smoothing=0.2)
        mine, my_gradient = ours(RosePO(RosePOOptions(beta=0.5)), *case, eps=0.2)

        assert mine == pytest.approx(theirs, rel=1e-5)
        torch.testing.assert_close(my_gradient, their_gradient, rtol=1e-5, atol=1e-8)


def test_three_pairs_of_rosepo_worked_out_by_hand() -> None:
    """beta = 0.5. Delta = 0.5 [(log pi_w - log ref_w) - (log pi_l - log ref_l)] for each pair:

    1. 0.5 [(-4 - -6) - (-5 - -5)] = 0.5 (2 - 0) = 1, eps 0.2. With log sigmoid(1) = -0.3132616875 and
       log sigmoid(-1) = -1.3132616875: 0.8 * 0.3132616875 + 0.2 * 1.3132616875 = 0.5132616875.
       Derivative in Delta: 0.2 - sigmoid(-1) = 0.2 - 0.2689414214 = -0.0689414214.
    2. 0.5 [(-7 - -7) - (-8 - -8)] = 0, eps 0.4: ln 2 = 0.6931471806 whatever eps is.
       Derivative: 0.4 - 0.5 = -0.1.
    3. 0.5 [(-9 - -6) - (-3 - -4)] = 0.5 (-3 - 1) = -2, eps 0.1. With log sigmoid(-2) = -2.1269280110 and
       log sigmoid(2) = -0.1269280110: 0.9 * 2.1269280110 + 0.1 * 0.1269280110 = 1.9269280110.
       Derivative: 0.1 - sigmoid(2) = 0.1 - 0.8807970780 = -0.7807970780.

    The derivative in log pi_w is that in Delta times beta = 0.5, in log pi_l times -0.5.
    """
    pairs = LogProbs(
        chosen=torch.tensor([-4.0, -7.0, -9.0], dtype=torch.float64, requires_grad=True),
        rejected=torch.tensor([[-5.0], [-8.0], [-3.0]], dtype=torch.float64, requires_grad=True),
        reference_chosen=torch.tensor([-6.0, -7.0, -6.0], dtype=torch.float64),
        reference_rejected=torch.tensor([[-5.0], [-8.0], [-4.0]], dtype=torch.float64),
        chosen_tokens=torch.tensor([3, 3, 3]),
        rejected_tokens=torch.tensor([[3], [3], [3]]),
        eps=torch.tensor([[0.2], [0.4], [0.1]], dtype=torch.float64),
        valid=torch.ones(3, 1, dtype=torch.bool),
    )

    loss = RosePO(RosePOOptions(beta=0.5))(pairs)
    loss.sum().backward()

    assert loss.tolist() == pytest.approx([0.5132616875, 0.6931471806, 1.9269280110], abs=1e-9)
    assert pairs.chosen.grad is not None
    assert pairs.rejected.grad is not None
    assert pairs.chosen.grad.tolist() == pytest.approx([-0.0344707107, -0.05, -0.3903985390], abs=1e-9)
    assert pairs.rejected.grad[:, 0].tolist() == pytest.approx([0.0344707107, 0.05, 0.3903985390], abs=1e-9)


@pytest.mark.parametrize("eps", [0.01, 0.2, 0.45])
def test_rosepo_rests_at_the_margin_that_its_oracle_sets(eps: float) -> None:
    """At Delta = log((1 - eps) / eps) the gradient is zero; a narrower margin is widened, a wider one narrowed."""
    rest = math.log((1 - eps) / eps)
    chosen = torch.tensor([rest - 0.1, rest, rest + 0.1], dtype=torch.float64, requires_grad=True)
    zeros = torch.zeros(3, 1, dtype=torch.float64)
    loss = RosePO(RosePOOptions(beta=1.0))(
        LogProbs(
            chosen=chosen,
            rejected=zeros,
            reference_chosen=zeros[:, 0],
            reference_rejected=zeros,
            chosen_tokens=torch.ones(3, dtype=torch.long),
            rejected_tokens=torch.ones(3, 1, dtype=torch.long),
            eps=torch.full((3, 1), eps, dtype=torch.float64),
            valid=torch.ones(3, 1, dtype=torch.bool),
        )
    )
    loss.sum().backward()

    assert chosen.grad is not None
    assert chosen.grad[0] < 0
    assert chosen.grad[1].item() == pytest.approx(0, abs=1e-12)
    assert chosen.grad[2] > 0


def test_rosepo_without_smoothing_is_dpo_to_the_last_bit() -> None:
    given = log_probs(50, 3, dtype=torch.float32)
    certain = LogProbs(**{**vars(given), "eps": torch.zeros(50, 3)})

    dpo, rosepo = DPO()(certain), RosePO()(certain)

    assert torch.equal(dpo, rosepo)
    for mine, theirs in zip(
        torch.autograd.grad(dpo.sum(), [given.chosen, given.rejected]),
        torch.autograd.grad(rosepo.sum(), [given.chosen, given.rejected]),
        strict=True,
    ):
        assert torch.equal(mine, theirs)


def test_several_rejected_are_the_mean_over_pairs_by_plain_formulas() -> None:
    """Each row and slot once more, in plain Python from the papers' formulas."""
    given = log_probs(6, 4)

    def pair(row: int, slot: int) -> dict[str, float]:
        won = (given.chosen[row] - given.reference_chosen[row]).item()
        lost = (given.rejected[row, slot] - given.reference_rejected[row, slot]).item()
        smooth = given.eps[row, slot].item()
        sigmoid = 1 / (1 + math.exp(-0.3 * (won - lost)))
        per_token = won / given.chosen_tokens[row].item() - lost / given.rejected_tokens[row, slot].item()
        return {
            "dpo": -math.log(sigmoid),
            "rosepo": -(1 - smooth) * math.log(sigmoid) - smooth * math.log(1 - sigmoid),
            "ipo": (per_token - 1 / 0.6) ** 2,
        }

    pairs = [[pair(row, slot) for slot in range(4)] for row in range(6)]
    for name, loss in [
        ("dpo", DPO(DPOOptions(beta=0.3))),
        ("rosepo", RosePO(RosePOOptions(beta=0.3))),
        ("ipo", IPO(IPOOptions(beta=0.3))),
    ]:
        expected = [sum(slot[name] for slot in row) / 4 for row in pairs]
        assert loss(given).tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("make", ALL)
def test_invalid_slots_give_neither_value_nor_gradient(make: type[PreferenceLoss]) -> None:
    """A row with garbage in slots 1 and 2 is the row of slot 0 alone, gradients and all."""
    whole = log_probs(3, 3)
    alone = LogProbs(
        **{
            name: value if value.ndim == 1 else value[:, :1].detach().clone().requires_grad_(name == "rejected")
            for name, value in vars(whole).items()
            if value is not None
        }
    )
    garbage = torch.tensor([[math.nan, -math.inf], [math.inf, math.nan], [-math.inf, math.inf]], dtype=torch.float64)
    spoilt = {name: value.detach().clone() for name, value in vars(whole).items() if value is not None}
    for name in ("rejected", "reference_rejected", "eps"):
        spoilt[name][:, 1:] = garbage
    spoilt["rejected_tokens"][:, 1:] = 0
    spoilt["valid"][:, 1:] = False
    spoilt["chosen"].requires_grad_()
    spoilt["rejected"].requires_grad_()

    loss = make()
    value, expected = loss(LogProbs(**spoilt)), loss(alone)
    gradients = torch.autograd.grad(value.sum(), [spoilt["chosen"], spoilt["rejected"]])
    wanted = torch.autograd.grad(expected.sum(), [alone.chosen, alone.rejected])

    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradients[0], wanted[0])
    torch.testing.assert_close(gradients[1][:, :1], wanted[1])
    assert gradients[1][:, 1:].tolist() == [[0, 0]] * 3


@pytest.mark.parametrize("make", ALL)
def test_gradients_agree_with_finite_differences(make: type[PreferenceLoss]) -> None:
    given = log_probs(4, 3)
    given.valid[1, 2] = given.valid[3, 0] = False

    def of(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return make()(LogProbs(**{**vars(given), "chosen": chosen, "rejected": rejected}))

    assert torch.autograd.gradcheck(of, (given.chosen, given.rejected))


@pytest.mark.parametrize(("make", "at_start"), [(DPO, math.log(2)), (RosePO, math.log(2)), (IPO, 25.0)])
def test_where_policy_and_reference_agree_the_loss_is_known(make: type[PreferenceLoss], at_start: float) -> None:
    """ln 2 at a margin of 0; for `ipo` the square of 1 / (2 * 0.1) = 5."""
    given = log_probs(5, 2)
    same = LogProbs(**{**vars(given), "reference_chosen": given.chosen, "reference_rejected": given.rejected})

    assert make()(same).tolist() == pytest.approx([at_start] * 5)


@pytest.mark.parametrize("delta", [-1e4, 1e4])
def test_extreme_margins_stay_finite(delta: float) -> None:
    """The loss grows linearly on both sides: with eps 0.25 as 0.75 |Delta| below zero, as 0.25 |Delta| above."""
    given = log_probs(1, 1, dtype=torch.float32)
    chosen = torch.tensor([delta], requires_grad=True)
    flat = LogProbs(
        **{
            **vars(given),
            "chosen": chosen,
            "rejected": torch.zeros(1, 1),
            "reference_chosen": torch.zeros(1),
            "reference_rejected": torch.zeros(1, 1),
            "eps": torch.full((1, 1), 0.25),
        }
    )

    loss = RosePO(RosePOOptions(beta=1.0))(flat)
    loss.sum().backward()

    assert loss.item() == pytest.approx(7500.0 if delta < 0 else 2500.0)
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(-0.75 if delta < 0 else 0.25)


def test_each_loss_goes_by_its_name_and_trls() -> None:
    registry = load_plugins()
    for name, alias in {
        "dpo": "sigmoid",
        "exo": "exo_pair",
        "nca": "nca_pair",
        "sppo": "sppo_hard",
        "apo-zero": "apo_zero",
        "apo-down": "apo_down",
    }.items():
        assert registry.entry("loss", name) == registry.entry("loss", alias)
        assert registry.create("loss", alias, {"beta": 0.3}).beta == 0.3
    assert [make().beta for make in (DPO, IPO, RosePO)] == [0.1, 0.1, 0.1]
    assert [(loss.needs_reference, loss.needs_smoothing) for loss in (DPO(), IPO(), RosePO(), SimPO())] == [
        (True, False),
        (True, False),
        (True, True),
        (False, False),
    ]
