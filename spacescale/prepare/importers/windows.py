"""Where the records of an imported set lie on the genome."""

import sys
from collections.abc import Mapping
from pathlib import Path

from spacescale.errors import UserError
from spacescale.genome.intervals import Interval
from spacescale.prepare.importers.source import Geometry
from spacescale.splits.beds import bed_contigs, read_window_bed


def read_windows(
    path: Path,
    num_records: Mapping[str, int],
    geometry: Geometry,
    lengths: Mapping[str, int] | None,
    aliases: Mapping[str, str],
) -> list[Interval]:
    """Return the target interval of each record, split by split in the order of `num_records`.

    The BED lists chrom, start, end, split, those of a split in the order of its records. Its
    intervals may be targets (Borzoi), input sequences (Enformer) or anything of one length with
    the target in the centre. lengths: of the contigs, None if the genome is not known. Raises
    UserError with file and line as `read_window_bed` does, and where a split has other records
    than intervals.
    """
    if lengths is None:
        lengths = dict.fromkeys(bed_contigs(path), sys.maxsize)
    windows: dict[str, list[Interval]] = {split: [] for split in num_records}
    offer_auto = not aliases
    for target in read_window_bed(path, geometry.span, lengths, aliases, offer_auto):
        if target.split not in windows:
            raise UserError(
                f"{path}: split {target.split!r} of {target.chrom}:{target.start} is none of the "
                f"set: {', '.join(windows)}"
            )
        windows[target.split].append(target)
    for split, expected in num_records.items():
        if len(windows[split]) != expected:
            raise UserError(
                f"{path} lists {len(windows[split])} windows of {split}, the set has {expected} "
                "records of it: a BED of another set?"
            )
    return [window for split in windows.values() for window in split]


def unplaced_windows(num_records: Mapping[str, int], geometry: Geometry) -> list[Interval]:
    """Return windows on contigs of their own, for records whose place is not known."""
    start, end = geometry.margin, geometry.margin + geometry.span
    return [
        Interval(f"{split}_window_{number:06d}", start, end, split)
        for split, count in num_records.items()
        for number in range(count)
    ]
