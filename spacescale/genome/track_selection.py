"""Take some of the tracks of a targets table."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from spacescale.arguments import given_path, listed_names
from spacescale.errors import UserError
from spacescale.genome.aliases import shorten
from spacescale.genome.text_files import split_cells, text_lines
from spacescale.genome.tracks import Track


def select_tracks(tracks: Sequence[Track], names: Sequence[str], table: Path) -> list[Track]:
    """Return the tracks that `names` asks for, in the order of the table; all if it is empty.

    Each name is an identifier or, where no track has that identifier, an index of the table's
    first column. Raises UserError naming the table for a name that no track or several have, and
    for a stranded track whose opposite strand is not selected.
    """
    if not names:
        return list(tracks)
    wanted = {row for name in names for row in [_row(tracks, name, table)]}
    rows = sorted(wanted)
    new_row = {row: new for new, row in enumerate(rows)}
    for row in rows:
        pair = tracks[row].strand_pair
        if pair not in wanted:
            raise UserError(
                f"{table}: track {tracks[row].identifier} is selected without its opposite strand "
                f"{tracks[pair].identifier} (index {tracks[pair].index}): select both"
            )
    return [replace(tracks[row], strand_pair=new_row[tracks[row].strand_pair]) for row in rows]


def track_names(text: str) -> tuple[str, ...]:
    """Return the names in `A,B,3`, or those in the file of `@FILE`, one a line.

    Raises UserError when the file cannot be read or names nothing.
    """
    if not text.startswith("@"):
        return listed_names(text)
    path = given_path(text[1:])
    cells = (
        split_cells(f"{path}:{number}", line)
        for number, line in text_lines(path, "the list of tracks")
    )
    if names := tuple(name for row in cells if (name := "\t".join(row).strip())):
        return names
    raise UserError(f"{path} names no track")


def _row(tracks: Sequence[Track], name: str, table: Path) -> int:
    rows = [row for row, track in enumerate(tracks) if track.identifier == name]
    if not rows:
        rows = [row for row, track in enumerate(tracks) if str(track.index) == name]
    if len(rows) == 1:
        return rows[0]
    if rows:
        indices = shorten([str(tracks[row].index) for row in rows])
        raise UserError(f"{table}: {len(rows)} tracks are called {name}; give an index: {indices}")
    raise UserError(
        f"{table} has no track {name!r}, neither as identifier nor as index; it has "
        f"{shorten([track.identifier for track in tracks])}"
    )
