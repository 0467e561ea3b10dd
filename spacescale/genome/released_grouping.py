"""The assays with which the released SPACE grouped the tracks of the Basenji tables."""

from __future__ import annotations

import json
import re
from pathlib import Path

from spacescale.errors import UserError

TABLE = "released_track_types.json"  # species → runs of tracks of one assay, as LETTER and length


def released_grouping(species: str) -> tuple[str, ...]:
    """Our assay of each track of a species, in the original order of the Basenji tables.

    These are the groups that the released weights were trained with; the rule on track names
    (`genome.tracks.assay_of`) puts some human ChIP-seq tracks elsewhere. UserError for a species
    other than human and mouse.
    """
    table = json.loads(Path(__file__).with_name(TABLE).read_text())
    legend = table.pop("legend")
    if species not in table:
        known = ", ".join(table)
        raise UserError(f"species {species!r}: the released grouping is of {known}")
    runs = re.findall(r"([A-Z])(\d+)", table[species])
    return tuple(legend[letter] for letter, count in runs for _ in range(int(count)))
