"""What a search leaves open: data that were read and not searched, and what is not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.species_genome import same_splits


@dataclass(frozen=True)
class Reading:
    """The data that weights were trained on, called `source`.

    seq_length: bp of an input. manifests, splits: hashes of each species' data set, None where not
    known.
    """

    source: str
    seq_length: int
    manifests: Mapping[str, str | None]
    splits: Mapping[str, str | None]

    def was_of(self, data: SpeciesData) -> bool | None:
        """Whether it read these windows; None where nothing tells."""
        if data.name not in self.manifests:
            return False
        if data.manifest_hash == self.manifests[data.name]:
            return True
        split = self.splits.get(data.name)
        return None if split is None else same_splits(split, data.splits_identity(of_bases=False))


@dataclass(frozen=True)
class Gaps:
    """Why a sequence that is not found may have been seen, and what is counted roughly.

    not_searched: species whose windows training read, and whose data were not given. not_known:
    what weights do not tell, in words. uncounted: species all of whose training windows count.
    """

    not_searched: Sequence[str] = ()
    not_known: Sequence[str] = ()
    uncounted: Sequence[str] = ()

    @property
    def notes(self) -> list[str]:
        """The same in words, a line each."""
        notes = [
            f"{name}: not among the data, so its windows were not searched"
            for name in self.not_searched
        ]
        notes += [f"not known: {what}" for what in self.not_known]
        if self.uncounted:
            notes.append(
                f"in which order windows of {', '.join(self.uncounted)} were read is not known: "
                "all training windows count"
            )
        return notes


def find_gaps(
    readings: Sequence[Reading], datasets: Mapping[str, SpeciesData]
) -> tuple[list[str], list[str]]:
    """What of the readings was not searched, and what is not known, where `datasets` were."""
    not_searched, not_known = [], []
    told = set()  # a run that keeps species tells of their data, as do the weights it began with
    for reading in readings:
        for name, identity in reading.manifests.items():
            if (name, identity) in told:
                continue
            told.add((name, identity))
            data = datasets.get(name)
            if data is None:
                not_searched.append(name)
            elif (same := reading.was_of(data)) is None:
                not_known.append(f"whether {reading.source} read these windows of {name}")
            elif not same:
                not_searched.append(f"{name} as {reading.source} read it")
    return list(dict.fromkeys(not_searched)), not_known
