"""What shard.py tells a person to decide, from files whose faults are known."""

import re

import numpy as np
import pyBigWig
import pytest
from commands import DATA_PREP, run_here

from spacescale.dataset.reader import SpeciesData
from spacescale.evals.data_info import describe_data
from spacescale.genome.intervals import Interval
from spacescale.genome.tracks import Track
from spacescale.prepare.bin_summary import BinSummary, bases_of_splits

SPLITS = ["--valid-chroms", "chr2", "--test-chroms", "chr3"]
LENGTHS = {"chr1": 16_000, "chr2": 4_000, "chr3": 4_000, "chr4": 4_000}


def write_track(path, values):
    """values: {contig: float [bp], NaN for what the file leaves out}."""
    with pyBigWig.open(str(path), "w") as file:
        file.addHeader([(name, LENGTHS[name]) for name in values])
        for name, of_contig in values.items():
            there = np.flatnonzero(~np.isnan(of_contig))
            file.addEntries(name, there.tolist(), values=of_contig[there].tolist(), span=1)


def dense(*names):
    rng = np.random.default_rng(3)
    return {name: rng.gamma(4, 1, LENGTHS[name]) for name in names}


def holes(values, share, zeros):
    """Leave out the first `share` of each contig; then `zeros` of the rest is 0."""
    for of_contig in values.values():
        cut = int(share * of_contig.size)
        of_contig[:cut] = np.nan
        of_contig[cut : cut + int(zeros * (of_contig.size - cut))] = 0
    return values


@pytest.fixture
def shard(tmp_path):
    """Run shard.py on tracks {name: values, clip}; return what it prints and where."""
    (tmp_path / "genome.fa").write_text(
        "".join(f">{name}\n{'ACGT' * (length // 4)}\n" for name, length in LENGTHS.items())
    )

    def command(tracks, *arguments):
        rows = ["index\tidentifier\tfile\tclip"]
        for number, (name, (values, clip)) in enumerate(tracks.items()):
            write_track(tmp_path / f"{name}.bw", values)
            rows.append(f"{number}\t{name}\t{name}.bw\t{clip}")
        (tmp_path / "targets.txt").write_text("\n".join(rows) + "\n")
        done = run_here(
            DATA_PREP / "shard.py", "--species", "tiny", "--fasta", tmp_path / "genome.fa",
            "--targets", tmp_path / "targets.txt", "--out", tmp_path / "out", "--seq-length", 192,
            "--bin-size", 16, "--target-length", 8, "--overwrite", *arguments, cwd=tmp_path,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout

    return command


@pytest.mark.parametrize("plan", [["--plan"], []])
def test_nothing_is_said_of_tracks_that_need_no_decision(shard, plan):
    text = shard({"a": (dense(*LENGTHS), ""), "b": (dense(*LENGTHS), 50)}, *SPLITS, *plan)
    assert "decide" not in text and "measured" not in text and "looked at" not in text


@pytest.mark.parametrize("plan", [["--plan"], []])
def test_unmeasured_bases_are_told_apart_by_whether_the_file_lists_zeros(shard, tmp_path, plan):
    tracks = {
        "lists": (holes(dense(*LENGTHS), 0.5, 0.3), ""),
        "leaves": (holes(dense(*LENGTHS), 0.4, 0), ""),
        "whole": (dense(*LENGTHS), ""),
    }
    text = shard(tracks, *SPLITS, *plan)
    assert re.search(r"\n  lists +(49|50|51)\.\d % +(29|30|31)\.\d %", text)
    assert re.search(r"\n  leaves +(59|60|61)\.\d % +0\.0 %", text)
    assert "\n  whole" not in text
    assert "decide: --missing nan: lists leave bases out although they list zeros" in text
    assert "decide: --missing zero (as now): leaves list hardly a 0" in text
    text = shard(tracks, *SPLITS, *plan, "--missing", "nan")
    assert "--missing nan: lists" not in text
    assert "decide: --missing zero (now nan): leaves list hardly a 0" in text


def test_info_counts_zero_filled_bases_apart(shard, tmp_path):
    def info():
        return describe_data(SpeciesData.open(tmp_path / "out/tiny"))

    shard({"half": (holes(dense(*LENGTHS), 0.5, 0), ""), "a": (dense(*LENGTHS), "")}, *SPLITS)
    text = info()
    found = re.search(r"zero-filled +(\d+\.\d) % of the bases .*\(half: (\d+\.\d) %\)", text)
    assert found and 24 < float(found[1]) < 26 and 48 < float(found[2]) < 52
    assert "measured" not in text.split("tracks  ")[0].split("windows  ")[1]
    shard({"a": (dense(*LENGTHS), "")}, *SPLITS)
    assert "zero-filled  nothing" in info()
    shard({"half": (holes(dense(*LENGTHS), 0.5, 0), "")}, *SPLITS, "--missing", "nan")
    assert "zero-filled" not in info() and "measured  above 0" in info()


def test_a_clip_that_takes_half_the_signal_is_named_with_a_gentle_one(shard):
    sparse = {name: np.zeros(length) for name, length in LENGTHS.items()}
    for of_contig in sparse.values():
        for start in range(128, of_contig.size, 800):
            of_contig[start : start + 48] = 40
    mean = np.mean(np.concatenate(list(sparse.values())))
    text = shard({"atac": (sparse, 10 * mean), "open": (dense(*LENGTHS), 100)}, *SPLITS)
    row = re.search(r"\n  atac .* (\d+\.\d) % +(\S+)", text)
    assert row and 30 < float(row[1]) < 60 and row[2] == "none"
    assert "decide: clip: that of atac takes more than 5.0 % of the signal away" in text


def test_a_pile_up_gets_a_clip_that_takes_little(shard):
    values = dense(*LENGTHS)
    values["chr1"][320:324] = 200
    text = shard({"a": (values, "")}, *SPLITS)
    assert re.search(r"\n  a .* chr1:320-336 .* \d+(\.\d+)? \([01]\.\d %\)\n", text)
    assert "decide: clip, a column of the targets table: a few bins of a lie far above" in text


def test_contigs_and_splits_that_lack_measured_bases_are_named(shard):
    few = dense("chr1", "chr2", "chr3")
    few["chr3"][:] = np.nan
    few["chr3"][:16] = 1
    tracks = {"a": (dense(*LENGTHS), ""), "few": (few, "")}
    text = shard(tracks, *SPLITS)
    assert "decide: --missing nan keeps chr4, 14.3 % of the genome, which only some of" in text
    assert re.search(r"splits: of the measured bases, .* test 9\.\d % \(16\.\d %\)", text)
    few["chr3"][:] = np.nan
    few["chr3"][3_999] = 1  # beyond the last target
    assert "splits: nothing was measured in test of few" in shard(tracks, *SPLITS)


@pytest.mark.parametrize("plan", [["--plan"], []])
def test_a_contig_without_signal_is_named(shard, plan):
    a, b, c = dense(*LENGTHS), dense(*LENGTHS), dense(*LENGTHS)
    for values in (a, b):
        values["chr4"] *= 0.1
    tracks = {"a": (a, ""), "b": (b, ""), "c": (c, "")}
    text = shard(tracks, *SPLITS, *plan)
    assert re.search(r"decide: contigs: chr4, 14.\d % of the bins, has 0.1\d* of the signal", text)
    a["chr4"] *= 10  # now one track of three
    assert "decide" not in shard(tracks, *SPLITS, *plan)


def test_blocks_that_waste_targets_or_cannot_meet_the_shares_are_told_what_works(shard, tmp_path):
    tracks = {"a": (dense(*LENGTHS), "")}
    text = shard(tracks, "--random-blocks", 190)
    assert "decide: --random-blocks 128 or 256: blocks of 190 bp hold 1 targets" in text
    assert "--random-blocks" not in shard(tracks, "--random-blocks", 256)
    done = run_here(
        DATA_PREP / "shard.py", "--species", "tiny", "--fasta", tmp_path / "genome.fa",
        "--targets", tmp_path / "targets.txt", "--out", tmp_path / "out2", "--seq-length", 192,
        "--bin-size", 16, "--target-length", 8, "--random-blocks", 16_000,
            "--test-share", 0.05, cwd=tmp_path,
    )  # fmt: skip
    works = re.search(r"choose smaller blocks .*; --random-blocks (\d+) works", done.stderr)
    assert done.returncode == 2 and works, done.stderr
    assert int(works[1]) % 128 == 0 and "train" in shard(
        tracks, "--random-blocks", works[1], "--test-share", 0.05
    )


def test_names_that_auto_leaves_out_are_told_what_was_looked_for(shard, monkeypatch):
    monkeypatch.setitem(LENGTHS, "scaffold_9", 4_000)
    values = dense("chr1", "chr2", "chr3", "chr4", "scaffold_9")
    monkeypatch.delitem(LENGTHS, "scaffold_9")  # not in the genome, which is written already
    monkeypatch.setitem(LENGTHS, "scaffold_9", 4_000)
    text = shard({"a": (values, "")}, *SPLITS, "--aliases", "auto")
    assert "--aliases auto leaves scaffold_9 of the tracks out: for scaffold_9 it looks" in text


# --- the summary itself ---


def test_bases_in_two_windows_count_once():
    windows = [Interval("a", 0, 100, "train"), Interval("a", 25, 125, "train"),
               Interval("a", 300, 400, "train"), Interval("b", 0, 100, "test")]  # fmt: skip
    assert bases_of_splits(windows) == {"train": 225, "test": 100}


def test_summary_of_known_bins():
    bins = np.ones((2, 500), dtype=np.float32)
    bins[0, :10] = np.nan
    bins[1, 7] = 50
    windows = [Interval("a", 0, 4000, "train"), Interval("b", 0, 4000, "test")]
    found = BinSummary.of(
        windows, bins, np.array([3920, 4000]), 792, Track(0, "t", "f", 0, clip=20)
    )
    assert found.measured == {"train": 3920, "test": 4000}
    assert found.zeros == pytest.approx(0.1)
    assert (found.quantiles, found.largest, found.place) == ((1, 1, 1), 50, "b:56-64")
    assert found.largest_share == pytest.approx(50 / 1039)
    assert found.removed == pytest.approx(30 / 1039)
    # 1 % of 1039 is 10.4, so 39.6 would do.
    assert found.clip == 40 and found.clip_removes == pytest.approx(10 / 1039)


def test_summary_of_what_was_never_measured():
    bins = np.full((1, 4), np.nan, dtype=np.float32)
    found = BinSummary.of(
        [Interval("a", 0, 8, "train")], bins, np.array([0]), 0, Track(0, "t", "f", 0)
    )
    assert np.isnan(found.zeros) and np.isnan(found.largest) and found.clip is None
