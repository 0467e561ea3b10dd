"""The option `--genome` of commands that read tasks."""

from __future__ import annotations

import argparse
from pathlib import Path

from spacescale.arguments import path_option


def add_genome_option(parser: argparse.ArgumentParser) -> None:
    """Add it. What is parsed `read_task` takes as it is: a file, {class: file}, or None."""
    parser.add_argument("--genome", type=_genome, action=_Genomes, metavar="FILE|CLASS=FILE",
                        help="FASTA or 2bit, of tasks that give places instead of sequences; "
                        "where classes have genomes of their own, once for each")  # fmt: skip


def _genome(text: str) -> Path | dict[str, Path]:
    name, equals, file = text.partition("=")
    if equals and "/" not in name:  # else a folder may have the =
        return {name: path_option(file)}
    return path_option(text)


class _Genomes(argparse.Action):
    """Keeps one file, or joins those of several classes."""

    def __call__(self, parser, namespace, values, option_string=None):
        given = getattr(namespace, self.dest)
        if given is None:
            setattr(namespace, self.dest, values)
        elif isinstance(given, dict) and isinstance(values, dict) and not given.keys() & values:
            setattr(namespace, self.dest, given | values)
        else:
            raise argparse.ArgumentError(self, "expected one FILE, or CLASS=FILE once for each")
