"""Contig names: one assembly comes in several naming styles (chrIV / IV, chrM / MT / Mito)."""

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path

from spacescale.errors import UserError

_MOST_SHOWN = 6
_MITOCHONDRION = {"m", "mt", "mito", "mtdna", "mitochondrion"}


def suggest(name: str, names: Collection[str]) -> str:
    """Return '; did you mean …?' with the names nearest to `name`, or the first few there are.

    Names that differ only in style come before names that are spelled alike: II is chrII.
    """
    if near := _nearest(name, names):
        return f"; did you mean {', '.join(near)}?"
    return f"; there are {shorten(names)}"


def _nearest(name: str, names: Collection[str]) -> list[str]:
    same = [other for other in names if _style(other) == _style(name)]
    return same or difflib.get_close_matches(name, list(names), n=3)


def describe_unknown(
    unknown: Collection[str], genome_names: Collection[str], offer_auto: bool = False
) -> str:
    """Say which contigs the FASTA lacks and what they may be called there.

    offer_auto: no aliases were asked for, so `--aliases auto` can be the cure.
    """
    cure = ""
    if offer_auto and match_styles(unknown, genome_names):
        cure = "; --aliases auto matches names that differ only in style"
    if len(unknown) == 1:
        name = next(iter(unknown))
        return f"the FASTA has no contig {name!r}{suggest(name, genome_names)}{cure}"
    nearest = {name: _nearest(name, genome_names) for name in list(unknown)[:_MOST_SHOWN]}
    pairs = [f"{name} = {near[0]}" for name, near in nearest.items() if near]
    proposal = (
        f"did you mean {', '.join(pairs)}?" if pairs else "there are " + shorten(genome_names)
    )
    return f"the FASTA has no contigs {shorten(unknown)}; {proposal}{cure}"


def shorten(names: Collection[str], limit: int = _MOST_SHOWN) -> str:
    """Return the first `limit` names in one line, and how many more there are."""
    shown = ", ".join(list(names)[:limit])
    return shown if len(names) <= limit else f"{shown}, … ({len(names)} in all)"


def auto_aliases(names: Mapping[str, int], genome: Mapping[str, int]) -> dict[str, str]:
    """Match contigs (name: length in bp) that differ from the genome's only in style.

    Ignored are case and a leading 'chr'; M, MT and Mito are one. Roman numerals stay as they
    are. A match counts only where the lengths are equal, so it cannot join two assemblies, and
    where one contig fits. Returns {name: genome name} for the names the genome does not have as
    they stand.
    """
    of_style: dict[tuple[str, int], list[str]] = {}
    for contig, length in genome.items():
        of_style.setdefault((_style(contig), length), []).append(contig)
    lacking = {name: length for name, length in names.items() if name not in genome}
    matches = {n: of_style.get((_style(n), length), []) for n, length in lacking.items()}
    return {name: same[0] for name, same in matches.items() if len(same) == 1}


def match_styles(names: Collection[str], genome_names: Collection[str]) -> dict[str, str]:
    """Match names whose length is not known to those of the genome that differ only in style.

    Only unambiguous matches count. Returns {name: genome name} for names the genome lacks.
    """
    of_style: dict[str, list[str]] = {}
    for known in genome_names:
        of_style.setdefault(_style(known), []).append(known)
    lacking = set(names) - set(genome_names)
    matches = {name: of_style.get(_style(name), []) for name in names if name in lacking}
    return {name: same[0] for name, same in matches.items() if len(same) == 1}


def _style(name: str) -> str:
    plain = name.casefold().removeprefix("chr")
    return "m" if plain in _MITOCHONDRION else plain


def read_aliases(path: Path, genome_names: Collection[str]) -> dict[str, str]:
    """Read two columns, a name in tracks or BED and its name in the FASTA, in either order.

    Returns {other name: genome name}. The order is told from the side that names contigs of
    the genome. Raises UserError (file and line) for other than two columns, unknown contigs, a
    name with two meanings, and two names of the FASTA.
    """
    pairs = [(number, *_two_columns(path, number, line)) for number, line in _lines(path)]
    known = set(genome_names)
    left = sum(first in known for _, first, _ in pairs)
    right = sum(second in known for _, _, second in pairs)
    aliases = {}
    for number, first, second in pairs:
        other, genome_name = (second, first) if left > right else (first, second)
        if first != second and {first, second} <= known:
            raise UserError(
                f"{path}:{number}: {first} and {second} are both contigs of the FASTA, so one "
                "cannot be another name of the other"
            )
        if genome_name not in known:
            raise UserError(
                f"{path}:{number}: the FASTA has no contig {genome_name!r}"
                + suggest(genome_name, known)
            )
        if aliases.setdefault(other, genome_name) != genome_name:
            raise UserError(
                f"{path}:{number}: {other} stands for {aliases[other]} and for {genome_name}"
            )
    if len(set(aliases.values())) < len(aliases):
        raise UserError(f"{path}: two names stand for the same contig of the FASTA")
    return aliases


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read the aliases file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file") from error
    lines = enumerate(text.splitlines(), start=1)
    return [(n, line) for n, line in lines if line.strip() and not line.startswith("#")]


def _two_columns(path: Path, number: int, line: str) -> tuple[str, str]:
    columns = line.split()
    if len(columns) != 2:
        raise UserError(f"{path}:{number}: expected two columns, found {len(columns)}")
    return columns[0], columns[1]
