"""BED files that say which stretches, or which windows, belong to which split.

Tab separated: chrom, start, end, split ("excluded": none); further columns are ignored, and so are
blank lines and those beginning with '#', track or browser. 0-based half-open, in bp. Plain or gzip.
"""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from spacescale.errors import UserError
from spacescale.files import write_text
from spacescale.genome.aliases import explain_unknown, shorten
from spacescale.genome.intervals import Interval
from spacescale.genome.text_files import decoded, numbered_lines, split_cells, whole_number

_COLUMNS = 4
_KNOWN_SPLITS = {"train", "valid", "test"}

_Numbered = list[tuple[Interval, int]]


def bed_contigs(path: Path) -> list[str]:
    """Return the contig names of a BED as they stand there, each once."""
    return list(dict.fromkeys(columns[0] for _, columns in _read_rows(path)))


def read_split_bed(
    path: Path, lengths: Mapping[str, int], aliases: Mapping[str, str], offer_auto: bool = False
) -> list[Interval]:
    """Read the stretches of each split, to be tiled with windows.

    lengths: contig lengths in bp of the genome; aliases: {name in the BED: genome name};
    offer_auto: propose `--aliases auto` for unknown names that it would match. Returns intervals
    under genome names, in the order of the file. Raises UserError with file:line for wrong columns
    or coordinates, unknown contigs and overlaps: overlapping intervals would put the same bases
    into two splits, or twice into one.
    """
    numbered = _read_intervals(path, lengths, aliases, offer_auto)
    _refuse_overlaps(path, sorted(numbered))
    return [interval for interval, _ in numbered]


def read_window_bed(
    path: Path,
    span_bp: int,
    lengths: Mapping[str, int],
    aliases: Mapping[str, str],
    offer_auto: bool = False,
) -> list[Interval]:
    """Read windows one by one: each interval's central span_bp are one target.

    Windows of one split may overlap. All must be of one length, at least span_bp and different
    from it by an even number. Returns targets under genome names, in the order of the file. Raises
    UserError with file:line as `read_split_bed` does, and for windows of another length, for
    targets that are listed twice, and for those that overlap a target of another split.
    """
    numbered = _read_intervals(path, lengths, aliases, offer_auto)
    _refuse_lengths(path, numbered, span_bp)
    targets = [(_centre(window, span_bp), number) for window, number in numbered]
    _refuse_shared_targets(path, sorted(targets))
    return [target for target, _ in targets]


def name_folds(
    place: Path | str,
    intervals: Sequence[Interval],
    valid_folds: Sequence[str],
    test_folds: Sequence[str],
) -> list[Interval]:
    """Turn the named folds into valid and test, all others into train.

    Without names the splits stay as they are. Raises UserError, beginning with `place`, if none of
    them is train, valid or test, and for folds that are not there.
    """
    folds = sorted({interval.split for interval in intervals})
    if not (valid_folds or test_folds):
        if not _KNOWN_SPLITS & set(folds):
            raise UserError(
                f"{place}: the splits are {shorten(folds, 8)}; training needs one called train. "
                "Say which are held out, such as --valid-folds fold3 --test-folds fold4: the "
                "others train"
            )
        _refuse_misspelled(place, folds)
        return list(intervals)
    for option, names in (("valid", valid_folds), ("test", test_folds)):
        if unknown := [name for name in names if name not in folds]:
            raise UserError(f"--{option}-folds {shorten(unknown)}: the BED has {shorten(folds, 8)}")
    split_of = dict.fromkeys(valid_folds, "valid") | dict.fromkeys(test_folds, "test")
    return [replace(i, split=split_of.get(i.split, "train")) for i in intervals]


def _refuse_misspelled(place: Path | str, splits: Sequence[str]) -> None:
    # Other names are allowed (`evaluate --split NAME`); a slip would leave windows to no one.
    for split in set(splits) - _KNOWN_SPLITS:
        if meant := difflib.get_close_matches(split.lower(), sorted(_KNOWN_SPLITS), 1, 0.66):
            raise UserError(f"{place}: there is a split {split!r}; did you mean {meant[0]!r}?")


def _centre(window: Interval, span_bp: int) -> Interval:
    start = window.start + (window.end - window.start - span_bp) // 2
    return Interval(window.chrom, start, start + span_bp, window.split)


def _read_intervals(
    path: Path, lengths: Mapping[str, int], aliases: Mapping[str, str], offer_auto: bool
) -> _Numbered:
    rows = _read_rows(path)
    _refuse_unknown(path, rows, lengths, aliases, offer_auto)
    return [
        (_parse_row(f"{path}:{number}", columns, lengths, aliases), number)
        for number, columns in rows
    ]


def _read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return line numbers and columns of the lines that name an interval."""
    rows = []
    for number, line in numbered_lines(path, "the BED file"):
        place = f"{path}:{number}"
        rows.append((number, _split_columns(place, decoded(place, line))))
    if not rows:
        raise UserError(f"{path} lists no interval")
    return rows


def _split_columns(place: str, line: str) -> list[str]:
    columns = split_cells(place, line)
    if len(columns) >= _COLUMNS and columns[3].strip():
        return columns
    spaces = "; it has spaces for tabs" if len(line.split()) > len(columns) else ""
    raise UserError(
        f"{place}: expected chrom, start, end, split separated by tabs, found {line!r}{spaces}"
    )


def _refuse_unknown(
    path: Path,
    rows: list[tuple[int, list[str]]],
    lengths: Mapping[str, int],
    aliases: Mapping[str, str],
    offer_auto: bool,
) -> None:
    lines: dict[str, int] = {}
    for number, columns in rows:
        if aliases.get(columns[0], columns[0]) not in lengths:
            lines.setdefault(columns[0], number)
    if lines:
        first = next(iter(lines.values()))
        row = next(columns for number, columns in rows if number == first)
        header = "" if whole_number(row[1]) is not None else " (a header line? begin it with #)"
        raise UserError(f"{path}:{first}: {explain_unknown(lines, lengths, offer_auto)}{header}")


def _parse_row(
    place: str, columns: list[str], lengths: Mapping[str, int], aliases: Mapping[str, str]
) -> Interval:
    name, start, end = aliases.get(columns[0], columns[0]), *map(whole_number, columns[1:3])
    if start is None or end is None or start < 0:
        found = f"{columns[1][:30]!r}, {columns[2][:30]!r}"
        raise UserError(f"{place}: start and end must be whole numbers, found {found}")
    if start >= end:
        raise UserError(f"{place}: start {start} is not before end {end}")
    if end > lengths[name]:
        raise UserError(
            f"{place}: end {end} lies beyond {name}, which has {lengths[name]} bp; "
            "another assembly?"
        )
    return Interval(name, start, end, columns[3].strip())


def _refuse_overlaps(path: Path, numbered: _Numbered) -> None:
    for (before, first), (after, second) in pairwise(numbered):
        if before.chrom == after.chrom and after.start < before.end:
            raise UserError(
                f"{path}:{second}: {_place(after)} overlaps line {first}, "
                f"{before.start}-{before.end} ({before.split}); if these are windows rather than "
                "stretches to tile, give them as --windows"
            )


def _refuse_lengths(path: Path, numbered: _Numbered, span_bp: int) -> None:
    counts = Counter(window.end - window.start for window, _ in numbered)
    usual = counts.most_common(1)[0][0]
    for window, number in numbered:
        length = window.end - window.start
        if length != usual:
            hint = "; is its start 1-based?" if length == usual - 1 else ""
            raise UserError(
                f"{path}:{number}: {_place(window)} has {length} bp, most windows have {usual}"
                + hint
            )
    window, number = numbered[0]
    if usual < span_bp or (usual - span_bp) % 2:
        # A 1-based start makes an interval one base shorter than it should be.
        hint = "; are the starts 1-based?" if (usual + 1) % 2 == span_bp % 2 else ""
        raise UserError(
            f"{path}:{number}: {_place(window)} has {usual} bp; a window must exceed the target's "
            f"{span_bp} bp by an even number of bp, or equal it{hint}"
        )


def _refuse_shared_targets(path: Path, numbered: _Numbered) -> None:
    """Go through sorted targets, which are all of one length."""
    last_of: dict[str, tuple[Interval, int]] = {}  # by split, on the contig at hand
    for target, number in numbered:
        last_of = {s: (t, n) for s, (t, n) in last_of.items() if t.chrom == target.chrom}
        for split, (before, first) in last_of.items():
            if split != target.split and target.start < before.end:
                raise UserError(
                    f"{path}:{number}: the target {_place(target)} overlaps that of line {first}, "
                    f"{before.start}-{before.end} ({split}): the same bases in two splits"
                )
            if split == target.split and target.start == before.start:
                raise UserError(f"{path}:{number}: {_place(target)} is line {first} again")
        last_of[target.split] = (target, number)


def _place(interval: Interval) -> str:
    return f"{interval.chrom}:{interval.start}-{interval.end} ({interval.split})"


def write_split_bed(path: Path, intervals: Iterable[Interval], comments: Iterable[str]) -> None:
    """Write a BED that `read_split_bed` reads back; it appears at once, when it is complete."""
    lines = [f"# {comment}\n" for comment in comments]
    lines += [f"{i.chrom}\t{i.start}\t{i.end}\t{i.split}\n" for i in intervals]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(lines))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
