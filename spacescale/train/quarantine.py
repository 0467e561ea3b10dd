"""Damaged windows that a run replaces instead of ending: `data.on_damaged=replace`.

Which window takes a damaged one's place follows from the data alone (dataset/loader.py), so that
it is the same on every rank and after every resume. Here they are told, counted and listed in
`quarantine.tsv` of the run folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from spacescale.dataset.batch import Replaced
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.errors import UserError
from spacescale.files import write_text
from spacescale.parallel import comm

REPORT = "quarantine.tsv"
HEADER = "species\trow\tplace\tread_instead\treason"
MAX_SHARE = 1e-3  # of the training windows; beyond it the data set is damaged, not a window


class Quarantine:
    """The damaged windows that this run has met, on any rank and in any of its starts."""

    def __init__(self, output: Path, datasets: Mapping[str, SpeciesGenome]):
        self.path, self.datasets = output / REPORT, datasets
        self.lines = comm.on_main(lambda: _read(self.path))
        windows = sum(len(d.rows("train")) for d in datasets.values() if isinstance(d, SpeciesData))
        self.limit = max(1, int(MAX_SHARE * windows))

    def add(self, replaced: Iterable[Replaced]) -> list[str]:
        """Add those of all ranks; returns a line on each that was not known. All ranks call it.

        Raises UserError on all ranks where there are too many by now.
        """
        found = {
            _line(self.datasets[one.species], one): one
            for rank in comm.gather([*replaced])
            for one in rank
        }
        new = {line: one for line, one in found.items() if line not in self.lines}
        if not new:
            return []
        self.lines += new
        comm.on_main(lambda: write_text(self.path, "\n".join([HEADER, *self.lines, ""])))
        if len(self.lines) > self.limit:
            raise UserError(
                f"{len(self.lines)} damaged windows, listed in {self.path}; data.on_damaged="
                f"replace bears {self.limit} ({MAX_SHARE:.1%} of the training windows). Copy the "
                "data sets again"
            )
        return [f"{one.reason}; replaced by row {one.by}" for one in new.values()]


def _line(data: SpeciesGenome, one: Replaced) -> str:
    assert isinstance(data, SpeciesData), "only windows with targets are replaced"
    reason = " ".join(one.reason.split())  # no tabs or line ends
    places = data.place(one.row), data.place(one.by)
    return "\t".join((one.species, str(one.row), *places, reason))


def _read(path: Path) -> list[str]:
    if not path.is_file():
        return []
    header, *lines = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    if header != HEADER:
        raise UserError(f"{path}: expected the header {HEADER!r}, found {header!r}")
    return lines
