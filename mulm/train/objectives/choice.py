"""Which objective a config means.

Called by the training loop where none is given; a new objective gets its line here.
"""

from __future__ import annotations

from typing import Any

from mulm.train.context import TrainContext
from mulm.train.objectives.base import Objective
from mulm.train.objectives.distillation import Distillation
from mulm.train.objectives.preference import Preference
from mulm.train.objectives.pretraining import Pretraining
from mulm.train.settled import SettledConfig


def choose_objective(config: SettledConfig, context: TrainContext) -> Objective[Any, Any]:
    """Preference where the config says so, distillation from a teacher, else pretraining."""
    if config.preference:
        return Preference(config, context)
    return (Distillation if config.teacher else Pretraining)(config, context)
