"""An ablation as job arrays of Slurm: a script that submits a task for every run."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from spacescale.ablation.plan import Plan

OPTIONS = "ABLATE_SBATCH"  # the variable with options of sbatch


def script(plan: Plan, words: Sequence[str]) -> str:
    """Bash that submits the runs that choose rates, those that are compared, and the tables.

    words: of the command. Each step waits for the end of the one before: failed runs are named by
    the tables.
    """
    command = [sys.executable, "-m", "spacescale.cli", *_of_a_task(words)]
    trials, slots = len(plan.all_trials()), len(plan.slots())
    lines = [
        "#!/bin/bash",
        f"# Submit with: spacescale … --slurm | bash. {OPTIONS}: options of sbatch for all jobs.",
        "set -euo pipefail",
        f'options=(--parsable --requeue ${{{OPTIONS}:-}} "--export=ALL")',
    ]
    after = ""
    for name, first, last in (("rates", 1, trials), ("runs", trials + 1, trials + slots)):
        if last >= first:
            wrap = shlex.quote(f"exec {shlex.join(command)} --only $SLURM_ARRAY_TASK_ID")
            lines.append(
                f'{name}=$(sbatch "${{options[@]}}" --job-name=ablate-{name} '
                f"--array={first}-{last}{after} --wrap={wrap})"
            )
            after = f" --dependency=afterany:${name}"
    wrap = shlex.quote(f"exec {shlex.join(command)} --tables")
    lines += [
        f'tables=$(sbatch "${{options[@]}}" --job-name=ablate-tables{after} --wrap={wrap})',
        f'echo "submitted: {"rates $rates, " if trials else ""}runs $runs, tables $tables"',
    ]
    return "\n".join(lines)


def _of_a_task(words: Sequence[str]) -> list[str]:
    """Words of the command without --slurm, and without --jobs: a task has its node to itself."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--slurm", action="store_true")
    parser.add_argument("--jobs")
    return parser.parse_known_args(words)[1]
