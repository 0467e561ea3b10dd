"""Which bases training may read."""

import numpy as np
import pytest
from small_datasets import LENGTHS, SPAN, small_genome, small_targets, write_small_dataset

from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.schema import Contig
from spacescale.dataset.training_stretches import training_stretches
from spacescale.errors import UserError
from spacescale.genome.intervals import Interval


def stretches(folder, places, **manifest):
    windows = [Interval(chrom, start, start + SPAN, split) for chrom, start, split in places]
    targets = small_targets()[: len(windows)]
    means = np.ones(targets.shape[2])
    path = write_small_dataset(folder / "a", targets, windows, means=means, **manifest)
    data = SpeciesData.open(path)
    return [(contig.name, start, end) for contig, start, end in training_stretches(data)]


def test_targets_that_touch_are_joined_and_those_held_out_are_taken_away(tmp_path):
    places = [
        ("chrI", 0, "train"),
        ("chrI", 128, "train"),
        ("chrI", 512, "train"),
        ("chrI", 600, "valid"),
        ("chrI", 900, "train"),
        ("chrII", 512, "test"),
        ("chrIII", 640, "train"),
    ]
    expected = [("chrI", 0, 256), ("chrI", 512, 600), ("chrI", 900, 1028), ("chrIII", 640, 768)]
    assert stretches(tmp_path, places) == expected


def test_a_window_within_one_held_out_is_not_read(tmp_path):
    places = [("chrI", 100, "train"), ("chrI", 100, "valid"), ("chrII", 0, "train")]
    assert stretches(tmp_path, places) == [("chrII", 0, 128)]


def test_pieces_of_a_contig_are_not_joined(tmp_path):
    pieces = [
        Contig(name="chrI", length=1000, offset=0, whole=False),
        Contig(name="chrI", length=2000, offset=1000, start=1000, whole=False),
        Contig(name="chrII", length=LENGTHS["chrII"], offset=3000),
        Contig(name="chrIII", length=LENGTHS["chrIII"], offset=5000),
    ]
    places = [("chrI", 872, "train"), ("chrI", 1000, "train")]
    first, *others = small_genome()
    genome = [first[:1000], first[1000:], *others]
    found = stretches(tmp_path, places, contigs=pieces, genome=genome)
    assert found == [("chrI", 872, 1000), ("chrI", 1000, 1128)]


def test_without_training_windows_there_are_none(tmp_path):
    with pytest.raises(UserError, match="has no split 'train'"):
        stretches(tmp_path, [("chrI", 0, "test")])
