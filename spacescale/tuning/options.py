"""Options that all commands share which hold a model against a task."""

from __future__ import annotations

import argparse

from spacescale.arguments import path_option


def add_model_and_task_options(parser: argparse.ArgumentParser, out: str) -> None:
    """Weights, whose species, and how a task is read. out: the default of --out"""
    parser.add_argument("--weights", type=path_option, required=True, help="export, checkpoint, "
                        "run folder (its best) or ORG/NAME of the Hub")  # fmt: skip
    parser.add_argument("--name", help="what results call the weights (default: their folder's)")
    parser.add_argument("--species", help="whose token and gates are used; needed where the "
                        "weights know several")  # fmt: skip
    parser.add_argument("--like", help="for a species that the weights do not know: as which one "
                        "it begins")  # fmt: skip
    parser.add_argument("--out", type=path_option, default=path_option(out), help="folder for "
                        "results, one in it per task (default: %(default)s)")  # fmt: skip
    parser.add_argument("--genome", type=path_option, help="FASTA or 2bit, of tasks that give "
                        "places instead of sequences")  # fmt: skip
    parser.add_argument("--kind", choices=("classes", "labels", "values"),
                        help="what the targets are, where a table leaves it open")  # fmt: skip
