"""Contig names: one assembly comes in several naming styles (chrIV / IV, chrM / MT / Mito)."""

import difflib
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from spacescale.arguments import given_path
from spacescale.errors import UserError
from spacescale.genome.text_files import is_missing, split_cells, text_lines

_MOST_SHOWN = 6
_MOST_TRIED = 2
# Contigs of another length in some file may hold this share of the bases in question, and are then
# left out: in files of another assembly nearly all would be.
MAX_MISFIT_SHARE = 0.1
_Rows = list[tuple[int, list[str]]]
_PREFIX = re.compile(r"^(chromosome_?(?=.)|chr)", re.IGNORECASE)  # WormBase has CHROMOSOME_I
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


def describe_tried(names: Mapping[str, int | None], genome: Mapping[str, int]) -> str:
    """Say what `--aliases auto` looks for in the genome for names that it does not match, and why.

    names: of another file, with lengths in bp where they are known. genome: {contig: bp}.
    """
    told = [_tried(name, names[name], genome) for name in list(names)[:_MOST_TRIED]]
    more = f"; and so on, {len(names)} names in all" if len(names) > _MOST_TRIED else ""
    return "; ".join(told) + more


def _tried(name: str, length: int | None, genome: Mapping[str, int]) -> str:
    style = _style(name)
    same = [contig for contig in genome if _style(contig) == style]
    if not same:
        plain = _plain(name)
        looked_for = "M, MT or Mito" if style == "m" else plain
        text = f"for {name} it looks for {looked_for}, in any case, with or without chr"
        if plain.isdecimal():
            text += ", and not for a Roman numeral"
        if like := [contig for contig, bp in genome.items() if bp == length]:
            text += f" (its {length:,} bp are those of {shorten(like)})"
        return text
    if len(same) > 1:
        return f"{name} may be any of {shorten(same)}"
    other = (
        f"has {length:,} bp, {same[0]} has {genome[same[0]]:,}"
        if length
        else (f"is {same[0]} only if it has as many bp in the tracks")
    )
    return f"{name} {other}"


def explain_unknown(
    unknown: Collection[str], genome: Mapping[str, int], offer_auto: bool = False
) -> str:
    """Return `describe_unknown`, and why `--aliases auto` does not help where it does not."""
    text = describe_unknown(unknown, genome, offer_auto)
    if offer_auto and match_styles(unknown, genome):
        return text
    return f"{text}; --aliases auto has no match: {describe_tried(dict.fromkeys(unknown), genome)}"


def shorten(names: Collection[str], limit: int = _MOST_SHOWN) -> str:
    """Return the first `limit` names in one line, and how many more there are."""
    shown = ", ".join(list(names)[:limit])
    return shown if len(names) <= limit else f"{shown}, … ({len(names)} in all)"


def auto_aliases(names: Mapping[str, int], genome: Mapping[str, int]) -> dict[str, str]:
    """Match contigs (name: length in bp) that differ from the genome's only in style.

    Ignored are case and a leading 'chr' or 'chromosome_'; M, MT and Mito are one. Roman numerals
    stay as they are. A match counts only where the lengths are equal, so it cannot join two
    assemblies, and where one contig fits. Returns {name: genome name} for the names the genome
    does not have as they stand.
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
    of_style = _by_style(genome_names)
    lacking = set(names) - set(genome_names)
    matches = {name: of_style.get(_style(name), []) for name in names if name in lacking}
    return {name: same[0] for name, same in matches.items() if len(same) == 1}


def _by_style(names: Collection[str]) -> dict[str, list[str]]:
    of_style: dict[str, list[str]] = {}
    for name in names:
        of_style.setdefault(_style(name), []).append(name)
    return of_style


def _style(name: str) -> str:
    plain = _plain(name).casefold()
    return "m" if plain in _MITOCHONDRION else plain


def _plain(name: str) -> str:
    return _PREFIX.sub("", name)


def aliases_of_names(
    given: str | Path | None, names: Collection[str], genome_names: Collection[str]
) -> dict[str, str]:
    """Return what names without lengths are called in the genome, where that differs.

    given: the option `--aliases`: None, 'auto', or a file, of which only the rows of `names` are
    taken: a public table lists thousands. Raises UserError as `read_aliases`.
    """
    if given is None:
        return {}
    if str(given) == "auto":
        return match_styles(names, genome_names)
    aliases = read_aliases(given_path(str(given)), genome_names)
    return {name: aliases[name] for name in names if name in aliases}


def read_aliases(path: Path, genome_names: Collection[str]) -> dict[str, str]:
    """Read a table of contig names: two columns of the user's own, or a public table.

    Two columns hold a name in tracks or BED and its name in the FASTA, in either order, which is
    told from the side that names contigs of the genome. Tables of three and more columns, as UCSC
    (chromAlias.txt) and NCBI (assembly_report.txt) give them, may name contigs that the FASTA
    lacks; see `_from_public_table`. Returns {other name: genome name}; several names may stand for
    one contig. Raises UserError (file and line) for unknown contigs in two columns, a name with
    two meanings, and two names of the FASTA that would be one.
    """
    rows = _rows(path)
    if max((len(cells) for _, cells in rows), default=0) > 2:
        return _from_public_table(path, rows, set(genome_names))
    return _from_two_columns(path, rows, set(genome_names))


def _from_two_columns(path: Path, rows: _Rows, known: set[str]) -> dict[str, str]:
    if short := [number for number, cells in rows if len(cells) != 2]:
        raise UserError(
            f"{path}:{short[0]}: expected two columns, found 1; a tab or blanks separate them"
        )
    pairs = [(number, *cells) for number, cells in rows]
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
    return aliases


def _from_public_table(path: Path, rows: _Rows, known: set[str]) -> dict[str, str]:
    """Read a table with a row per contig, or per alias: alias, contig, source (UCSC's database).

    Names that stand in one row, or are tied over several, are one contig's. Columns whose words
    repeat, such as the source, name no contig.
    """
    group_of: dict[str, set[str]] = {}
    columns = _name_columns(rows)
    for number, cells in rows:
        names = {cells[c] for c in columns if c < len(cells) and not is_missing(cells[c])}
        group = names.union(*(group_of.get(name, ()) for name in names))
        if len(both := sorted(group & known)) > 1:
            raise UserError(
                f"{path}:{number}: {both[0]} and {both[1]} are both contigs of the FASTA, so one "
                "cannot be another name of the other"
            )
        group_of |= dict.fromkeys(group, group)
    aliases = {
        name: contig for name, group in group_of.items() for contig in group & known - {name}
    }
    if not known & group_of.keys():
        raise UserError(
            f"{path} names no contig of the FASTA: its columns without a repeated word have names "
            f"such as {shorten(list(group_of)) or 'none'}; the FASTA has {shorten(sorted(known))}"
        )
    return aliases


def _name_columns(rows: _Rows) -> list[int]:
    """Return the columns without a repeated word; the first two of alias, contig, source."""
    widest = max(len(cells) for _, cells in rows)
    filled = [
        [c[column] for _, c in rows if column < len(c) and not is_missing(c[column])]
        for column in range(widest)
    ]
    unique = [column for column, words in enumerate(filled) if len(set(words)) == len(words)]
    return [0, 1] if widest == 3 and 2 not in unique else unique


def _rows(path: Path) -> _Rows:
    """Return number and cells of each line; the cells lie between tabs, or else blanks.

    A line that is there twice, as in tables joined to one, is returned once.
    """
    rows: dict[tuple[str, ...], int] = {}
    for number, line in text_lines(path, "the aliases file"):
        if line.strip() and not line.startswith("#"):
            cells = split_cells(f"{path}:{number}", line if "\t" in line else _tabbed(line))
            rows.setdefault(tuple(cell.strip() for cell in cells), number)
    return [(number, list(cells)) for cells, number in rows.items()]


def _tabbed(line: str) -> str:
    return "\t".join(line.split())
