"""First-party preference losses."""

from rosepo_core.api import Register, hookimpl

# Name, class, summary, and the names that TRL uses.
LOSSES = (
    ("rosepo", "rosepo:RosePO", "DPO with its own smoothing factor for each pair.", ()),
    ("dpo", "dpo:DPO", "Direct Preference Optimization: every label counts as certain.", ("sigmoid",)),
    ("ipo", "ipo:IPO", "Identity Preference Optimization: a fixed margin per token.", ()),
    ("hinge", "hinge:Hinge", "SLiC: no more gradient beyond a fixed margin.", ()),
    ("simpo", "simpo:SimPO", "Mean log-probability with a margin; no reference.", ()),
    ("cpo", "cpo:CPO", "DPO without a reference, and the likelihood of the chosen response.", ()),
    ("orpo", "orpo:ORPO", "Likelihood and odds ratio; no reference.", ()),
    ("apo-zero", "apo_zero:APOZero", "Raise the chosen, lower the rejected, each on its own.", ("apo_zero",)),
    ("apo-down", "apo_down:APODown", "Lower both, the rejected one more.", ("apo_down",)),
    ("sppo", "sppo:SPPO", "Draw both log-ratios to fixed values.", ("sppo_hard",)),
    ("exo", "exo:EXO", "Reverse KL to what the labels or the oracle say.", ("exo_pair",)),
    ("nca", "nca:NCA", "Contrast that holds up the chosen response's own likelihood.", ("nca_pair",)),
    ("s-dpo", "s_dpo:SDPO", "Softmax over the chosen and all rejected responses.", ()),
    ("dmpo", "dmpo:DMPO", "The chosen against the mean of the rejected responses.", ()),
    ("mppo", "mppo:MPPO", "Average likelihoods against all rejected responses; no reference.", ()),
    ("dynamic-po", "dynamic_po:DynamicPO", "DMPO on the hardest rejected responses, with a beta for each.", ()),
    ("rec-po", "rec_po:RecPO", "S-DPO with margins from ratings and time.", ()),
    ("kto", "kto:KTO", "Chosen and rejected responses apart, against the drift of the whole step.", ()),
    ("sft", "sft:SFT", "Likelihood of the chosen response, as a term of a mixture.", ()),
)


@hookimpl
def rosepo_register_losses(register: Register) -> None:
    """Register all of `LOSSES`."""
    for name, target, summary, aliases in LOSSES:
        register(name, f"rosepo_losses.{target}", summary=summary, aliases=aliases)
