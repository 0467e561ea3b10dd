"""Options that all commands share which hold a model against a task."""

from __future__ import annotations

import argparse
from typing import Any

from spacescale.arguments import path_option
from spacescale.tasks.genome_option import add_genome_option


def add_model_and_task_options(
    parser: argparse.ArgumentParser, out: str, several: bool = False
) -> None:
    """Weights, whose species, and how a task is read. out: the default of --out.

    several: of tasks, which may differ in species.
    """
    parser.add_argument("--weights", type=path_option, required=True, help="export, checkpoint, "
                        "run folder (its best) or ORG/NAME of the Hub")  # fmt: skip
    parser.add_argument("--name", help="what results call the weights (default: their folder's)")
    species = "whose token and gates are used; needed where the weights know several"
    like = "for a species that the weights do not know: as which one it begins"
    if several:
        patterns = "; PATTERN=SPECIES for tasks of such names, the first that fits"
        each: dict[str, Any] = {"nargs": "+", "action": "extend", "metavar": "SPECIES"}
        parser.add_argument("--species", help=species + patterns, **each)
        parser.add_argument("--like", help=like + patterns, **each)
    else:
        parser.add_argument("--species", help=species)
        parser.add_argument("--like", help=like)
    parser.add_argument("--out", type=path_option, default=path_option(out), help="folder for "
                        "results, one in it per task (default: %(default)s)")  # fmt: skip
    add_genome_option(parser)
    parser.add_argument("--kind", choices=("classes", "labels", "values"),
                        help="what the targets are, where a table leaves it open")  # fmt: skip
