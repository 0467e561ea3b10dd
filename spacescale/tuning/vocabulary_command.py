"""The command `spacescale choose-vocabulary`: its options."""

from __future__ import annotations

import argparse

from spacescale.arguments import path_option
from spacescale.tasks.genome_option import add_genome_option


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add it to the `spacescale` command."""
    command = commands.add_parser(
        "choose-vocabulary", help="say which vocabulary shares more words with a task's sequences"
    )
    command.add_argument("task", type=path_option, nargs="+", metavar="TASK",
                         help="folder with train, valid and test, or one table")  # fmt: skip
    command.add_argument("--vocabulary", type=path_option, required=True,
                         help="folder of data_prep/vocabulary.py, or tokenizer.json of a published "
                         "BPE")  # fmt: skip
    add_genome_option(command)
    command.add_argument("--kind", choices=("classes", "labels", "values"),
                         help="what the targets are, where a table leaves it open")  # fmt: skip
    command.set_defaults(run=_choose)


def _choose(args: argparse.Namespace) -> None:
    from spacescale.tasks.read_task import read_task
    from spacescale.tokens.vocabulary import read_vocabulary
    from spacescale.tuning.vocabulary_choice import overlap, overlap_lines

    vocabulary = read_vocabulary(args.vocabulary)
    tasks = (read_task(path, genome=args.genome, kind=args.kind) for path in args.task)
    found = [overlap(task, vocabulary) for task in tasks]
    print("\n".join(overlap_lines(found, vocabulary.kmer)))
