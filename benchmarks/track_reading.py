"""From BigWig to binned targets: ours, a plain loop over pyBigWig, and the memory's limit.

And reading alone, beside the libraries of the field: small windows, and whole contigs in bins.
"""

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pyBigWig

from spacescale.genome.bigwig import BigWig
from spacescale.genome.sequence_files import read_genome
from spacescale.genome.tracks import read_targets
from spacescale.prepare.options import DatasetOptions
from spacescale.prepare.plan import make_plan
from spacescale.prepare.track_reader import WindowMasks, read_track
from spacescale.splits.options import SplitOptions

BIN_SIZE = 128
MEAN_RUN_BP = 30  # bases that share a value
COVERED = 0.9

Libraries = dict[str, ModuleType | None]


def compare_readers(args: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Bin the same tracks in every way, in turns; print and return the figures."""
    options = write_inputs(folder, args.windows, args.bins, args.tracks)
    tracks = read_targets(options.targets)
    plan = make_plan(options, read_genome(options.fasta), tracks)
    masks = WindowMasks.of(options, plan)

    def ours() -> list[np.ndarray]:
        return [read_track(options, plan, masks, track)[0] for track in tracks]

    def plain() -> list[np.ndarray]:
        found = []
        for track in tracks:
            file = pyBigWig.open(str(folder / track.file))
            bins = []
            for window in plan.windows:
                values = file.values(window.chrom, window.start, window.end, numpy=True)
                bins.append(np.nan_to_num(values).reshape(-1, BIN_SIZE).mean(1))
            found.append(np.stack(bins).astype(np.float16))
        return found

    span = options.span
    source, sink = np.ones(span, np.float32), np.empty(span, np.float32)

    def copied() -> None:
        for _ in range(len(tracks) * len(plan.windows)):
            np.copyto(sink, source)

    expected = plain()
    for found, bins in zip(ours(), expected, strict=True):
        assert np.array_equal(found, bins)
    units = len(tracks) * len(plan.windows)
    ways: dict[str, Callable] = {
        "plain pyBigWig loop": plain,
        "spacescale read_track": ours,
        "copy of as many float32 (memory)": copied,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.turns):
        for name, run in ways.items():
            started = time.process_time()
            run()
            seconds[name].append((time.process_time() - started) / units)
    found = to_first(seconds)
    print("| | windows x tracks / CPU-s | to the plain loop |")
    print("|---|---|---|")
    for name, row in found.items():
        print("| {} | {:,.0f} | {:.2f} |".format(name, *row.values()))
    return found


def compare_libraries(args: argparse.Namespace, folder: Path) -> dict[str, dict[str, dict]]:
    """Read windows and pool contigs with every library, in turns; print and return the figures.

    One thread. Every way opens the file and must give pyBigWig's values, NaN where there are none.
    """
    paths = args.bigwigs or [
        write_bigwig(folder / "runs.bw", args.length, np.random.default_rng(0))
    ]
    if not args.bigwigs:
        paths.append(write_single_bases(folder / "bases.bw", args.length // 4))
    libraries = {name: optional(name) for name in ("figwig", "isal", "pybigtools")}
    found = {}
    for path in paths:
        with BigWig(path) as file:
            chrom, length = max(file.contigs.items(), key=lambda item: item[1])
        random = np.random.default_rng(1).integers(0, length - args.width, args.windows)
        every = np.arange(0, min(length // args.width, args.windows)) * args.width
        orders = {"random": random, "sorted": np.sort(random), "adjoining": every}
        for what, starts in orders.items():
            ways = ways_of_windows(libraries, path, chrom, starts, args.width)
            found[f"{path.name}, {what}"] = race(ways, args.turns, starts.size)
        ways = ways_of_pooling(libraries, path, chrom, length // BIN_SIZE * BIN_SIZE)
        found[f"{path.name}, bins of {chrom}"] = race(ways, args.turns, length / 1e6)
    names = list(dict.fromkeys(name for row in found.values() for name in row))
    print("| us (rate to pyBigWig's) |", " | ".join(names), "|")
    print("|---" * (len(names) + 1) + "|")
    for what, row in found.items():
        cells = ("{:.1f} ({:.2f})".format(*row[n].values()) if n in row else "" for n in names)
        print(f"| {what} | " + " | ".join(cells) + " |")
    return found


def ways_of_windows(
    libraries: Libraries, path: Path, chrom: str, starts: np.ndarray, width: int
) -> dict[str, Callable[[], np.ndarray]]:
    """Return {name: a function that reads float32 [windows, width]}."""
    each = starts.tolist()

    def plain() -> np.ndarray:
        with pyBigWig.open(str(path)) as file:
            return np.stack([file.values(chrom, s, s + width, numpy=True) for s in each])

    def ours() -> np.ndarray:
        with BigWig(path) as file:
            return file.read_windows(chrom, starts, width)

    ways: dict[str, Callable[[], np.ndarray]] = {"pyBigWig": plain, "spacescale": ours}
    if figwig := libraries["figwig"]:
        for engine in ("zlib", "isal") if libraries["isal"] else ("zlib",):
            ways[f"figwig, {engine}"] = lambda engine=engine: figwig.BigWigReader(path).read(
                chrom, starts, width, n_jobs=1, missing=np.nan, engine=engine
            )
    if pybigtools := libraries["pybigtools"]:

        def bigtools() -> np.ndarray:
            with pybigtools.open(str(path)) as file:
                rows = [file.values(chrom, s, s + width, fillna=np.nan) for s in each]
                return np.stack(rows).astype(np.float32)

        ways["pybigtools"] = bigtools
    return ways


def ways_of_pooling(
    libraries: Libraries, path: Path, chrom: str, length: int
) -> dict[str, Callable[[], np.ndarray]]:
    """Return {name: a function that gives the mean of every bin of a contig, NaN counting as 0}."""

    def pooled(values: np.ndarray) -> np.ndarray:
        return np.nan_to_num(values, copy=False).reshape(-1, BIN_SIZE).mean(1)

    def plain() -> np.ndarray:
        with pyBigWig.open(str(path)) as file:
            return pooled(file.values(chrom, 0, length, numpy=True))

    def ours() -> np.ndarray:
        with BigWig(path) as file:
            return pooled(file.read(chrom, 0, length))

    ways: dict[str, Callable[[], np.ndarray]] = {"pyBigWig": plain, "spacescale": ours}
    if figwig := libraries["figwig"]:
        start = np.array([0])
        ways["figwig, zlib"] = lambda: pooled(
            figwig.BigWigReader(path).read(chrom, start, length, n_jobs=1, engine="zlib")
        )
    return ways


def optional(name: str) -> ModuleType | None:
    """Import a library that the benchmark can do without."""
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"left out: {name} is not installed (pip install {name})", file=sys.stderr)
        return None


def race(
    ways: dict[str, Callable[[], np.ndarray]], turns: int, units: float
) -> dict[str, dict[str, float]]:
    """Run every way in turns, after a check that all find the same."""
    expected = next(iter(ways.values()))()
    for name, run in ways.items():
        assert np.array_equal(run(), expected, equal_nan=True), name
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, run in ways.items():
            started = time.process_time()
            run()
            seconds[name].append((time.process_time() - started) / units)
    return {
        name: {"us": 1e6 / row["per_cpu_s"], "ratio": row["ratio"]}
        for name, row in to_first(seconds).items()
    }


def to_first(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return units per second, and how many times the rate of the first way; medians of turns."""
    baseline = next(iter(seconds.values()))
    return {
        name: {
            "per_cpu_s": 1 / statistics.median(times),
            "ratio": statistics.median(b / s for b, s in zip(baseline, times, strict=True)),
        }
        for name, times in seconds.items()
    }


def write_inputs(folder: Path, num_windows: int, bins: int, num_tracks: int) -> DatasetOptions:
    """Write a genome of one contig and BigWigs of runs of equal values with gaps."""
    length = num_windows * bins * BIN_SIZE
    random = np.random.default_rng(0)
    letters = np.frombuffer(b"ACGT", np.uint8)[random.integers(0, 4, length)]
    (folder / "genome.fa").write_bytes(b">chr1\n" + letters.tobytes() + b"\n")
    (folder / "splits.bed").write_text(f"chr1\t0\t{length}\ttrain\n")
    rows = ["index\tidentifier\tfile\tsum_stat"]
    for i in range(num_tracks):
        rows.append(f"{i}\ttrack{i}\ttrack{i}.bw\tmean")
        write_bigwig(folder / f"track{i}.bw", length, random)
    (folder / "targets.txt").write_text("\n".join(rows) + "\n")
    return DatasetOptions(
        species="made_up",
        fasta=folder / "genome.fa",
        targets=folder / "targets.txt",
        out=folder,
        seq_length=bins * BIN_SIZE,
        target_length=bins,
        splits=SplitOptions(contigs=folder / "splits.bed"),
    )


def write_single_bases(path: Path, length: int) -> Path:
    """A value for every base, with two decimals, in fixedStep sections."""
    values = np.random.default_rng(0).gamma(0.5, 4.0, length).round(2).astype(np.float32)
    with pyBigWig.open(str(path), "w") as file:
        file.addHeader([("chr1", length)])
        file.addEntries("chr1", 0, values=values, span=1, step=1)
    return path


def write_bigwig(path: Path, length: int, random: np.random.Generator) -> Path:
    """Runs of MEAN_RUN_BP on average, a share of them without a value."""
    ends = np.cumsum(random.geometric(1 / MEAN_RUN_BP, 2 * length // MEAN_RUN_BP))
    ends = np.append(ends[ends < length], length)
    starts = np.append(0, ends[:-1])
    kept = random.random(len(ends)) < COVERED
    values = random.gamma(0.5, 4.0, len(ends))
    with pyBigWig.open(str(path), "w") as file:
        file.addHeader([("chr1", length)])
        file.addEntries(
            ["chr1"] * int(kept.sum()),
            starts[kept].tolist(),
            ends=ends[kept].tolist(),
            values=values[kept].tolist(),
        )
    return path
