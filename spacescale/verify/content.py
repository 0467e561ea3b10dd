"""Checks of what a dataset holds: every base and every target is read."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial, reduce
from operator import add

import numpy as np
import zarr
from tqdm import tqdm

from spacescale.dataset.codecs import GENOME_CHUNK_BP, first_error
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.dataset.tar_targets import TarTargets
from spacescale.errors import UserError
from spacescale.genome import dna
from spacescale.genome.aliases import shorten
from spacescale.prepare.jobs import local_workers, run_jobs
from spacescale.verify.files import bases_at, row_name
from spacescale.verify.findings import Finding, error, warning
from spacescale.verify.statistics import BaseContent, TargetStatistics

_JOBS_PER_WORKER = 64
# An input is an outlier when more than this share of it is N, …
_MOST_UNKNOWN = 0.5
# … or when its GC share is further from the median than both of these: standard deviations as
# estimated from the median deviation, and an absolute difference, for genomes of one composition.
_GC_DEVIATIONS, _GC_DIFFERENCE = 6.0, 0.1
_SAME_MEAN = 1e-5


@dataclass
class Scan:
    """What reading windows told: targets by split, bases by window, and what could not be read."""

    targets: dict[str, TargetStatistics] = field(default_factory=dict)
    bases: list[BaseContent] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def add(self, other: "Scan") -> None:
        """Add what was found in other windows."""
        for split, statistics in other.targets.items():
            known = self.targets.get(split)
            self.targets[split] = known + statistics if known else statistics
        self.bases += other.bases
        self.findings += other.findings


def scan_windows(data: SpeciesData, rows: np.ndarray, workers: int = 1) -> Scan:
    """Read input and targets of these rows, int64 [rows], in so many processes."""
    num_jobs = min(len(rows), _JOBS_PER_WORKER * workers)
    jobs = [(part,) for part in np.array_split(rows, num_jobs)] if num_jobs else []
    scan = Scan()
    with (
        local_workers(workers) as executor,
        tqdm(desc="windows", total=len(rows), unit="window", disable=None) as progress,
    ):
        for part in run_jobs(executor, partial(_scan, data), jobs):
            scan.add(part)
            progress.update(sum(len(bases.rows) for bases in part.bases))
    return scan


def _scan(data: SpeciesData, rows: np.ndarray) -> Scan:
    in_tar = data.manifest.storage.format == "webdataset"
    store = TarTargets(data.path, data.manifest) if in_tar else None
    content = BaseContent(rows, *np.full((2, len(rows)), np.nan))
    scan = Scan(bases=[content])
    for position, row in enumerate(rows.tolist()):
        place = row_name(data, row)
        try:
            codes = data.sequence(row)
        except UserError as problem:
            scan.findings.append(error("genome", data.path / "genome", str(problem), place))
        else:
            content.gc[position], content.unknown[position] = _composition(codes)
            if store:
                scan.findings += _check_stored_sequence(data, store, row, codes)
        try:
            targets = data.targets(row)
        except UserError as problem:
            file = data.file_of(row)
            what = str(problem).removeprefix(f"{file}: {place} ")
            scan.findings.append(error("targets", file, what, place))
            continue
        if (infinite := np.isinf(targets).any(axis=0)).any():
            tracks = [data.tracks[i].identifier for i in np.flatnonzero(infinite)]
            what = f"holds inf in {shorten(tracks)}"
            scan.findings.append(error("targets", data.file_of(row), what, place))
        split = str(data.windows.split[row])
        if split not in scan.targets:
            scan.targets[split] = TargetStatistics.empty(len(data.tracks))
        scan.targets[split].add(targets)
    return scan


def _composition(codes: np.ndarray) -> tuple[float, float]:
    """Return the GC share of the known bases, NaN if there are none, and the share of N."""
    counts = np.bincount(codes, minlength=dna.N + 1)
    known = int(counts[: dna.N].sum())
    gc = (counts[dna.C] + counts[dna.G]) / known if known else np.nan
    return float(gc), 1 - known / codes.size


def _check_stored_sequence(
    data: SpeciesData, store: TarTargets, row: int, codes: np.ndarray
) -> Iterator[Finding]:
    """Compare the sequence beside the targets with that of the genome."""
    path, place = store.file_of(row), row_name(data, row)
    try:
        if not np.array_equal(store.sequence(row), codes):
            yield error("sequence", path, "holds another sequence than genome", place)
    except (OSError, ValueError) as problem:
        yield error("sequence", path, f"the sequence is damaged ({problem})", place)


def check_genome(data: SpeciesGenome) -> Iterator[Finding]:
    """Read every stored base, chunk by chunk."""
    path, contigs = data.path / "genome", data.manifest.contigs
    array = zarr.open_array(path, mode="r")
    for start in range(0, array.shape[0], GENOME_CHUNK_BP):
        end = min(start + GENOME_CHUNK_BP, array.shape[0])
        place = bases_at(start, end, contigs)
        try:
            codes = np.asarray(array[start:end])
        except Exception as problem:  # whatever zarr or a codec raises
            yield error("genome", path, f"a chunk is damaged ({first_error(problem)})", place)
            continue
        if codes.max() > dna.N:
            yield error("genome", path, "a chunk is missing, or holds what is no base", place)


def check_bases(data: SpeciesData, bases: list[BaseContent]) -> Iterator[Finding]:
    """Name the windows whose input is mostly unknown, or of an unusual composition."""
    rows = np.concatenate([part.rows for part in bases])
    gc = np.concatenate([part.gc for part in bases])
    unknown = np.concatenate([part.unknown for part in bases])
    path = data.path / "windows.bed"
    if (many := unknown > _MOST_UNKNOWN).any():
        what = f"more than {100 * _MOST_UNKNOWN:.0f} % of the input is N in {many.sum()} windows"
        yield warning("bases", path, f"{what}: {_window_names(data, rows[many])}")
    if np.isnan(gc).all():
        return
    middle = np.nanmedian(gc)
    deviation = 1.4826 * np.nanmedian(np.abs(gc - middle))
    limit = max(_GC_DEVIATIONS * deviation, _GC_DIFFERENCE)
    if (far := np.abs(gc - middle) > limit).any():
        what = (
            f"the GC share of {far.sum()} windows is further than {limit:.2f} from the median "
            f"{middle:.2f}"
        )
        yield warning("bases", path, f"{what}: {_window_names(data, rows[far])}")


def _window_names(data: SpeciesData, rows: np.ndarray) -> str:
    return shorten([row_name(data, int(row)) for row in np.sort(rows)])


def check_targets(data: SpeciesData, targets: dict[str, TargetStatistics]) -> Iterator[Finding]:
    """Name tracks that are constant, dead, unmeasured or saturated, or whose mean is another."""
    path = data.path / "tracks.tsv"
    if not targets:
        return
    whole = reduce(add, targets.values())
    names = np.array([track.identifier for track in data.tracks], dtype=object)
    constant = (whole.smallest == whole.largest) & (whole.largest != 0)
    for track in np.flatnonzero(constant):
        what = f"is {whole.smallest[track]:g} in every measured bin"
        yield warning("tracks", path, what, names[track])
    for split, statistics in targets.items():
        for track in np.flatnonzero(statistics.measured == 0):
            yield warning("tracks", path, f"is measured nowhere in {split}", names[track])
        for track in np.flatnonzero((statistics.nonzero == 0) & (statistics.measured > 0)):
            yield warning("tracks", path, f"is dead, 0 in every bin of {split}", names[track])
    for track in np.flatnonzero(whole.smallest < 0):
        what = f"goes down to {whole.smallest[track]:g}: training refuses targets below 0"
        yield warning("tracks", path, what, names[track])
    for track in np.flatnonzero(whole.saturated):
        what = f"has {whole.saturated[track]} bins at the limit of float16, 65504"
        yield warning("tracks", path, what, names[track])
    yield from _check_means(data, targets, whole)


def _check_means(
    data: SpeciesData, targets: dict[str, TargetStatistics], whole: TargetStatistics
) -> Iterator[Finding]:
    over = data.manifest.mean_over
    if over == "train" and "train" not in targets:
        return
    found = targets["train"].mean if over == "train" else whole.mean
    for track, mean in zip(data.tracks, found.tolist(), strict=True):
        if not np.isclose(track.mean, mean, rtol=_SAME_MEAN, atol=1e-12, equal_nan=True):
            what = f"says mean {track.mean:.6g}, the targets give {mean:.6g}"
            yield error("tracks", data.path / "tracks.tsv", what, track.identifier)
