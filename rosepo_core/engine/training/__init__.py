"""Training on token trees: supervised fine-tuning and preference optimization, by one trainer.

`fine_tune` and `align_preferences` train a model in place. Each gives its objective, and `running.train` does the
rest: transformers' `Trainer` (`trainer.py`) with TRL's configurations and metric names (`configuration.py`) on a
module that takes packed trees and gives log-probabilities (`module.py`).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rosepo_core.engine.training.alignment import PreferenceTree, align_preferences
    from rosepo_core.engine.training.fine_tuning import fine_tune
    from rosepo_core.engine.training.metrics import LogHistory
    from rosepo_core.engine.training.settings import TrainingSettings
    from rosepo_core.engine.training.tracking import Tracking

__all__ = ["LogHistory", "PreferenceTree", "Tracking", "TrainingSettings", "align_preferences", "fine_tune"]

# What only reads a run's artifacts uses names of this package, and need not have TRL.
_MODULES = {
    "LogHistory": "metrics",
    "PreferenceTree": "alignment",
    "Tracking": "tracking",
    "TrainingSettings": "settings",
    "align_preferences": "alignment",
    "fine_tune": "fine_tuning",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
