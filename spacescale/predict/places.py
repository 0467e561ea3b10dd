"""Places of a genome as people write them. Positions are 0-based, half-open, in bp."""

from __future__ import annotations

import re
from dataclasses import dataclass

from spacescale.errors import UserError


@dataclass(frozen=True)
class Place:
    """A stretch of a contig."""

    chrom: str
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.chrom}:{self.start:,}-{self.end:,}"


def parse_place(text: str, option: str) -> Place:
    """Read CONTIG:START-END; commas in numbers count for nothing.

    Raises UserError naming the option that it was given by.
    """
    if match := re.fullmatch(r"(.+):(\d[\d,]*)-(\d[\d,]*)", text):
        start, end = (int(number.replace(",", "")) for number in match.groups()[1:])
        if start < end:
            return Place(match.group(1), start, end)
    raise UserError(
        f"{option} {text}: expected CONTIG:START-END, 0-based half-open in bp, such as "
        "chrII:120000-150000"
    )
