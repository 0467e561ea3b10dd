"""What a run optimises: the objectives, side by side, behind one set of methods (`Objective`).

`Config.objective` chooses one. Trainer, engine, checkpoints, `status` and `selfcheck` know the
methods alone. Another objective is a file beside `profiles.py`, an entry of `OBJECTIVES` and a
value of that field.
"""

from __future__ import annotations

from spacescale.config import Config
from spacescale.objectives.hybrid import HybridObjective
from spacescale.objectives.objective import Losses, Objective, Score
from spacescale.objectives.profiles import ProfilesObjective
from spacescale.objectives.tokens import TokensObjective

__all__ = [
    "OBJECTIVES", "HybridObjective", "Losses", "Objective", "ProfilesObjective", "Score",
    "TokensObjective", "objective_of",
]  # fmt: skip

OBJECTIVES: dict[str, type[Objective]] = {  # by Config.objective
    "profiles": ProfilesObjective,
    "profiles+bases": HybridObjective,
    "tokens": TokensObjective,
}


def objective_of(config: Config) -> Objective:
    """The objective that a configuration chooses."""
    return OBJECTIVES[config.objective](config)
