"""Small datasets written from arrays, whole or with chosen faults."""

from pathlib import Path

import numpy as np

from spacescale.dataset.schema import Contig, Split, TransformInfo
from spacescale.genome.intervals import Interval, split_hash
from spacescale.genome.tracks import Track
from spacescale.prepare.writer import write_dataset
from spacescale.testing.made_up_data import manifest_of

LENGTHS = {"chrI": 3_000, "chrII": 2_000, "chrIII": 1_500}
SPLITS = {"chrI": "train", "chrII": "valid", "chrIII": "test"}
SEQ_LENGTH, BIN_SIZE, BINS, TRACKS = 192, 16, 8, 3
SPAN = BIN_SIZE * BINS


def small_windows() -> list[Interval]:
    """Tiles of 128 bp, 23 train, 15 valid and 11 test."""
    return [
        Interval(chrom, start, start + SPAN, SPLITS[chrom])
        for chrom, length in LENGTHS.items()
        for start in range(0, length - SPAN + 1, SPAN)
    ]


def small_targets(seed: int = 0) -> np.ndarray:
    """Positive targets, float16 [windows, bins, tracks]."""
    shape = len(small_windows()), BINS, TRACKS
    return np.random.default_rng(seed).gamma(1.0, 2.0, shape).astype(np.float16)


def small_genome(seed: int = 1) -> list[np.ndarray]:
    """Base codes of each contig, uint8."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 4, length).astype(np.uint8) for length in LENGTHS.values()]


def track_means(targets: np.ndarray, windows: list[Interval]) -> np.ndarray:
    """Means over the measured bins of the training windows, float64 [tracks]."""
    train = targets[[window.split == "train" for window in windows]]
    return np.nanmean(train.astype(np.float64), axis=(0, 1))


def write_small_dataset(
    target: Path,
    targets: np.ndarray | None = None,
    windows: list[Interval] | None = None,
    genome: list[np.ndarray] | None = None,
    means: np.ndarray | None = None,
    assay: str = "dnase_atac",
    **manifest,
) -> Path:
    """Write a dataset whose checksums are right, whatever it holds; `manifest` changes fields."""
    windows = small_windows() if windows is None else windows
    targets = small_targets() if targets is None else targets
    genome = small_genome() if genome is None else genome
    means = track_means(targets, windows) if means is None else means
    offsets = np.cumsum([0, *LENGTHS.values()]).tolist()
    fields = {
        "species": target.name,
        "seq_length": SEQ_LENGTH,
        "bin_size": BIN_SIZE,
        "target_length": BINS,
        "transform": TransformInfo(name="basenji2020", version=1),
        "split": Split(method="chroms", hash=split_hash(windows)),
        "num_tracks": targets.shape[2],
        "contigs": [
            Contig(name=name, length=length, offset=offset)
            for (name, length), offset in zip(LENGTHS.items(), offsets, strict=False)
        ],
    }
    tracks = [
        Track(
            index=i,
            identifier=f"track{i}",
            file=f"{i}.bw",
            strand_pair=i,
            description="DNASE:x",
            assay=assay,
            covered=1.0,
            mean=float(mean),
        )
        for i, mean in enumerate(means)
    ]
    whole = manifest_of(windows, **(fields | manifest))
    return write_dataset(target, whole, genome, windows, tracks, targets)
