"""Published files of tasks, with counts that are known of them."""

import csv
from pathlib import Path

import numpy as np
import pytest
from task_files import letters, table, write

from spacescale.errors import UserError
from spacescale.genome.sequence_files import read_genome
from spacescale.tasks.duplicates import Counts, find_duplicates, without_copies
from spacescale.tasks.read_task import read_task
from spacescale.tasks.suites import find_tasks

HUMAN = Path(__file__).parents[3] / "shared/data/human_hg38"
REAL = HUMAN.parent / "_benchmarks"
WITH_SEQUENCES = REAL / "genomic_benchmarks_in_windows"

pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f"the files of tasks are not in {REAL}")


@pytest.mark.parametrize(
    "name, sizes, length, in_train_and_test, contradictory, alone",
    [
        ("prom_core_all", (47_356, 5_920, 5_920), 70, (42, 42), (40, 40), 5_869),
        ("prom_core_notata", (42_452, 5_307, 5_307), 70, (29, 29), (34, 34), 5_274),
        ("prom_core_tata", (4_904, 613, 613), 70, (16, 16), (12, 12), 595),
        ("prom_300_tata", (4_904, 613, 613), 300, (6, 6), (10, 10), 607),
    ],
)
def test_promoters_of_gue(name, sizes, length, in_train_and_test, contradictory, alone):
    task = read_task(REAL / "GUE/prom" / name)
    assert (task.layout, task.kind, task.outputs) == ("tables", "classes", ("0", "1"))
    assert tuple(map(len, task.splits.values())) == sizes
    assert {n for one in task.splits.values() for n in one.lengths.tolist()} == {length}
    report = find_duplicates(task)
    assert report.between["train", "test"].sequences == Counts(*in_train_and_test)
    assert report.within["train"].contradictory == Counts(*contradictory)
    assert without_copies(task).size == alone


def test_transcription_factors_of_gue():
    first = read_task(REAL / "GUE/tf/1")
    assert first.name == "tf_1" and np.bincount(first.splits["test"].targets).tolist() == [500] * 2
    assert find_duplicates(first).between["train", "test"].sequences == Counts(1, 2)
    second = find_duplicates(read_task(REAL / "GUE/tf/2"))
    assert second.between["train", "valid"].sequences == Counts(19, 19)


def test_yeast_marks_of_gue_have_no_train_split_here():
    with pytest.raises(UserError, match=r"no train split in its files dev.csv, test.csv"):
        read_task(REAL / "GUE/EMP/H3")


def test_the_human_sample_of_dream():
    task = read_task(REAL / "dream2022/human")
    assert (task.layout, task.kind, task.outputs) == ("dream", "values", ("mean_value",))
    assert [len(one) for one in task.splits.values()] == [1_000] * 3
    assert set(task.splits["train"].lengths.tolist()) == {230}
    assert "AGGACCGGATCAACT and ends with CATTGCGTGAACCGA" in task.notes[0]
    assert task.splits["test"].targets[0] == pytest.approx(-2.304)
    report = find_duplicates(task)
    assert report.between["train", "test"].sequences == Counts(26, 26)
    assert report.shared_groups["train", "test"] == 44
    assert without_copies(task).size == 916


@pytest.mark.parametrize("path", sorted(WITH_SEQUENCES.glob("*.csv")), ids=lambda path: path.stem)
def test_genomic_benchmarks_with_sequences(path):
    task = read_task(path)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert sum(map(len, task.splits.values())) == len(rows)
    assert task.outputs == tuple(sorted({row["label"] for row in rows}))
    test = [row["sequence"] for row in rows if row["split"] == "test"]
    assert [letters(codes) for codes in task.splits["test"].codes] == test


def test_tables_with_splits_are_a_suite():
    assert find_tasks(WITH_SEQUENCES) == {path.stem: path for path in WITH_SEQUENCES.glob("*.csv")}


def test_human_and_worm_need_a_genome_each(tmp_path):
    path = write(tmp_path / "human.fa", ">chrX\nACGT\n")
    with pytest.raises(UserError, match=r"of 2 genomes .*--genome human=FASTA --genome worm=FASTA"):
        read_task(REAL / "genomic_benchmarks/demo_human_or_worm", genome=path)


def test_genomic_benchmarks_need_a_genome():
    with pytest.raises(UserError, match=r"expected genome=.*metadata.yaml names .*GRCh38"):
        read_task(REAL / "genomic_benchmarks/human_nontata_promoters")


def test_places_give_the_published_sequences(tmp_path):
    """Places of both strands, moved into the windows of which bases are at hand."""
    genome = HUMAN / "windows/windows.fa.gz"
    words = {name: name.split("_") for name in read_genome(genome).contigs}
    windows = {name: (chrom, int(a), int(b)) for name, (chrom, a, b, _) in words.items()}
    with (WITH_SEQUENCES / "human_nontata_promoters.csv").open() as file:
        rows = list(csv.DictReader(file))
    found: dict[tuple[str, str], list] = {}
    expected = []
    for row in sorted(rows, key=lambda row: row["label"]):
        start, end = int(row["start"]), int(row["end"])
        inside = [
            (window, start - first, end - first)
            for window, (chrom, first, last) in windows.items()
            if chrom == row["chrom"] and first <= start and end <= last
        ]
        if inside:
            places = found.setdefault((row["split"], row["label"]), [])
            places.append((len(places), *inside[0], row["strand"]))
            expected += [row["sequence"]] if row["split"] == "test" else []
    for (split, label), places in found.items():
        header = ("id", "region", "start", "end", "strand")
        write(tmp_path / "set" / split / f"{label}.csv.gz", table(places, header))
    test = read_task(tmp_path / "set", genome=genome).splits["test"]
    assert {name[-1] for name in test.names} == {"+", "-"}
    assert len(expected) > 50 and [letters(codes) for codes in test.codes] == expected
