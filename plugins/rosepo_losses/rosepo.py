"""The loss of RosePO: DPO with personalized smoothing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rosepo_losses.dpo import DPO, DPOOptions


class RosePOOptions(DPOOptions):
    """Options of `rosepo`."""

    smoothing: Literal["none", "oracle", "constant"] = Field(
        "oracle", description=DPOOptions.model_fields["smoothing"].description
    )


class RosePO(DPO):
    """-(1 - eps) log sigmoid(Delta) - eps log sigmoid(-Delta), with Delta as in DPO and a different eps for each
    pair.

    RosePO (arXiv 2410.12519), as far as its abstract tells: eps is the probability that this user prefers the
    rejected item to the chosen one. The derivative with respect to Delta is eps - sigmoid(-Delta), so each pair
    settles at Delta = log((1 - eps) / eps). If eps is 0 for all pairs, the values are exactly those of `dpo`; with
    ``smoothing = "constant"`` it is conservative DPO, and with ``variant = "robust"``, which is rosepo's own addition
    where eps comes from an oracle, robust DPO (arXiv 2403.00409). Each rejected response makes a pair with the chosen
    one; the loss of a row is the mean over its valid pairs.
    """

    Options = RosePOOptions
