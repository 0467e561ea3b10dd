"""From BigWig to binned targets: ours, a plain loop over pyBigWig, and the memory's limit."""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyBigWig

from spacescale.genome.sequence_files import read_genome
from spacescale.genome.tracks import read_targets
from spacescale.prepare.options import DatasetOptions
from spacescale.prepare.plan import make_plan
from spacescale.prepare.track_reader import WindowMasks, read_track
from spacescale.splits.options import SplitOptions

BIN_SIZE = 128
MEAN_RUN_BP = 30  # bases that share a value
COVERED = 0.9


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
    baseline = seconds["plain pyBigWig loop"]
    found = {
        name: {
            "per_cpu_s": 1 / statistics.median(times),
            "ratio": statistics.median(b / s for b, s in zip(baseline, times, strict=True)),
        }
        for name, times in seconds.items()
    }
    print("| | windows x tracks / CPU-s | to the plain loop |")
    print("|---|---|---|")
    for name, row in found.items():
        print("| {} | {:,.0f} | {:.2f} |".format(name, *row.values()))
    return found


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


def write_bigwig(path: Path, length: int, random: np.random.Generator) -> None:
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
