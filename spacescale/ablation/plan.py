"""All runs of an ablation: which are trained to choose rates, and which are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spacescale.ablation.arms import NULL, Arm
from spacescale.ablation.costs import Costed
from spacescale.ablation.runs import Recipe, Run, best_rate
from spacescale.errors import UserError
from spacescale.files import make_folder, read_json, write_json

SETTINGS_FILE, FORMAT, VERSION = "ablation.json", "spacescale-ablation", 1


@dataclass(frozen=True)
class Member:
    """An arm as it takes part. rates: to choose from."""

    costed: Costed
    rates: tuple[float, ...]
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        """Of the arm."""
        return self.costed.arm.name


@dataclass(frozen=True)
class Plan:
    """An ablation in its folder; the first member is what the others are held against."""

    out: Path
    recipe: Recipe
    members: tuple[Member, ...]

    def run(self, member: Member, rate: float, seed: int) -> Run:
        """One run of an arm."""
        return Run(self.out, member.name, member.costed.arm.overrides, rate, seed)

    def trials(self, member: Member) -> list[Run]:
        """The runs that choose the rate: each with the first seed. [] with one rate alone."""
        if len(member.rates) == 1:
            return []
        return [self.run(member, rate, member.seeds[0]) for rate in member.rates]

    def rate_of(self, member: Member) -> tuple[float, dict[str, float]]:
        """The rate of an arm, and the validation score of each that was tried.

        Raises UserError where none has been trained to its end yet.
        """
        trials = self.trials(member)
        if not trials:
            return member.rates[0], {}
        return best_rate(trials, member.costed.config.run.best_metric)

    def all_trials(self) -> list[Run]:
        """Those of all arms."""
        return [run for member in self.members for run in self.trials(member)]

    def slots(self) -> list[tuple[Member, int]]:
        """What is compared, member and seed: one seed of all arms, then the next."""
        longest = max(len(member.seeds) for member in self.members)
        return [(m, m.seeds[i]) for i in range(longest) for m in self.members]

    def compared(self, member: Member, seed: int) -> Run:
        """A run that is compared, of the chosen rate. Raises UserError as `rate_of`."""
        return self.run(member, self.rate_of(member)[0], seed)


def with_null(members: Sequence[Member]) -> tuple[Member, ...]:
    """Add the first arm again, with as many other seeds: all of the procedure, rates included."""
    first = members[0]
    arm = Arm(NULL, first.costed.arm.overrides)
    costed = Costed(arm, first.costed.config, first.costed.parameters, first.costed.window_flops)
    seeds = tuple(seed + len(first.seeds) for seed in first.seeds)
    return (*members, Member(costed, first.rates, seeds))


def keep_settings(plan: Plan) -> None:
    """Note in the folder what its runs are of, so that none is taken for another one's.

    Arms, rates and seeds may be added later. Raises UserError where the folder holds runs of other
    settings.
    """
    recipe, path = plan.recipe, plan.out / SETTINGS_FILE
    settings: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "preset": recipe.preset,
        "data": [str(folder) for folder in recipe.data],
        "deepspeed": str(recipe.deepspeed),
        "overrides": list(recipe.overrides),
        "evaluate": list(recipe.evaluate),
    }
    arms = {member.name: list(member.costed.arm.overrides) for member in plan.members}
    known = read_json(path) if path.exists() else settings | {"arms": {}}
    for name, value in settings.items():
        _require_same(path, name, known.get(name), value)
    for name, overrides in arms.items():
        _require_same(path, f"arm {name}", known["arms"].get(name, overrides), overrides)
    make_folder(plan.out)
    write_json(path, settings | {"arms": known["arms"] | arms}, indent=1)


def _require_same(path: Path, name: str, known: Any, now: Any) -> None:
    if known != now:
        raise UserError(
            f"{path}: {name} of the runs there is {known}, and {now} is asked for; choose another "
            "--out"
        )
