"""Making the runs of a plan, and telling what came out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from spacescale.ablation import figures
from spacescale.ablation.compare import compare
from spacescale.ablation.jobs import JobFailed, Jobs, Share
from spacescale.ablation.plan import Member, Plan
from spacescale.ablation.results import ArmResult, as_text, species_tracks, write_results
from spacescale.ablation.runs import Run, environment, evaluate_command, train_command
from spacescale.errors import UserError

logger = logging.getLogger(__name__)


class Work:
    """The runs of a plan as they are made; those that are done are not made again."""

    def __init__(self, plan: Plan, shares: Sequence[Share]):
        self.plan, self.jobs = plan, Jobs(shares)
        self.failures: list[str] = []

    def make_all(self) -> None:
        """Train what chooses rates, then train and score what is compared."""
        trials = [run for run in self.plan.all_trials() if not run.is_trained()]
        self._do(trials, self._train, "to choose rates")
        runs = []
        for member, seed in self.plan.slots():
            try:
                runs.append(self.plan.compared(member, seed))
            except UserError as error:  # of an arm none of whose rates could be trained
                self._note(str(error))
        self._do([run for run in runs if not run.is_scored()], self._make, "to compare")

    def make_one(self, number: int) -> None:
        """Make the number-th run, from 1: first those that choose rates, then those compared."""
        trials, slots = self.plan.all_trials(), self.plan.slots()
        total = len(trials) + len(slots)
        if not 1 <= number <= total:
            raise UserError(f"--only {number}: there are runs 1 to {total}")
        if number <= len(trials):
            self._do([trials[number - 1]], self._train, "to choose rates")
        else:
            run = self.plan.compared(*slots[number - len(trials) - 1])
            self._do([run], self._make, "to compare")

    def _do(self, runs: list[Run], work: Callable[[Run, Share], None], purpose: str) -> None:
        if runs:
            logger.info("%d runs %s, into %s", len(runs), purpose, self.plan.out)
        for run, error in self.jobs.do(runs, work).items():
            self._note(f"{run}: {run.reason() if isinstance(error, JobFailed) else error}")

    def _note(self, failure: str) -> None:
        if failure not in self.failures:
            logger.warning("failed: %s", failure)
            self.failures.append(failure)

    def _train(self, run: Run, share: Share) -> None:
        if run.is_trained():
            return
        began = time.monotonic()
        command = train_command(run, self.plan.recipe, share.gpus is not None)
        self.jobs.call(command, share, environment(share.gpus), run.log)
        if not run.is_trained():  # the launcher's status does not tell of ranks that were stopped
            raise JobFailed("ended before its last step")
        logger.info("%s: trained (%.1f min)", run, (time.monotonic() - began) / 60)

    def _make(self, run: Run, share: Share) -> None:
        if run.is_scored():
            return
        self._train(run, share)
        command = evaluate_command(run, self.plan.recipe)
        self.jobs.call(command, share, environment(share.gpus), run.log)
        logger.info("%s: scored", run)

    def report(self) -> str:
        """Compare the arms that have scored runs; writes tables and figures into the folder."""
        found = [arm for member in self.plan.members if (arm := self._result(member))]
        first = self.plan.members[0].name
        if not found or found[0].name != first:
            self.require_no_failures()
            raise UserError(
                f"{self.plan.out}: {first} has no scored run to hold the others against"
            )
        species, scores = species_tracks(found), [arm.scores() for arm in found]
        comparison = compare(species, scores)
        write_results(self.plan.out, found, comparison)
        figures.draw(self.plan.out / "figures", found, scores, species, comparison)
        logger.info("results.md, results.json and figures: %s", self.plan.out)
        return as_text(found, comparison)

    def _result(self, member: Member) -> ArmResult | None:
        try:
            rate, tried = self.plan.rate_of(member)
        except UserError:
            return None
        runs = [self.plan.run(member, rate, seed) for seed in member.seeds]
        runs = [run for run in runs if run.is_scored()]
        return ArmResult(member.costed, rate, tried, runs) if runs else None

    def require_no_failures(self) -> None:
        """Raise UserError naming what failed, and that the same command goes on."""
        if self.failures:
            names = "; ".join(self.failures)
            raise UserError(f"{len(self.failures)} failed, the same command tries again: {names}")
