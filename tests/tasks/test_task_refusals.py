"""Faulty files of tasks: one line that names file, line, value and what was expected."""

import re
import sys

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from task_files import dna, table, write, write_splits

from spacescale.errors import UserError
from spacescale.tasks.read_task import read_task

GOOD = [(dna(1), 0), (dna(2), 1)]


def refused(path, *parts, **settings):
    """The message has one line, and these parts in this order."""
    with pytest.raises(UserError) as caught:
        read_task(path, **settings)
    message = str(caught.value)
    assert "\n" not in message
    assert re.search(".*".join(map(re.escape, parts)), message), message


def with_train(folder, rows, **others):
    return write_splits(folder, train=rows, **{"dev": GOOD, "test": GOOD, **others})


# --- labels


@pytest.mark.parametrize(
    "label, parts",
    [
        ("3", ("label '3', but none is 2; expected 0…C−1 without a gap",)),
        ("-1", ("label '-1', expected whole numbers 0…C−1",)),
        ("0.5", ("label '0.5', expected whole numbers 0…C−1; --kind values",)),
        ("1.0", ("label '1.0', expected whole numbers",)),
        ("", ("label '', expected a class",)),
        ("nan", ("label 'nan', expected a class",)),
        ("worm", ("label 'worm' among numbers",)),
    ],
)
def test_labels_that_are_no_classes(tmp_path, label, parts):
    rows = [*GOOD, (dna(3), label)]
    refused(with_train(tmp_path, rows), f"{tmp_path}/train.csv:4: ", *parts)


def test_a_number_among_words(tmp_path):
    rows = [(dna(1), "worm"), (dna(2), "fly"), (dna(3), "7")]
    refused(with_train(tmp_path, rows), "train.csv:4: label '7' among words")


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_class_that_is_not_in_train(tmp_path, split):
    with_train(tmp_path, GOOD, **{split: [*GOOD, (dna(4), 2)]})
    name = {"dev": "valid"}.get(split, split)
    refused(tmp_path, f"{split}.csv:4: class '2' is in {name} and not in train, where it is empty")


def test_one_class_is_none(tmp_path):
    rows = GOOD[:1]
    write_splits(tmp_path, train=rows, dev=rows, test=rows)
    refused(tmp_path, "train.csv:2: every label is '0'; expected two classes")


def write_targets(folder, header, cells, test=None):
    write(folder / "train.csv", table([(dna(1), *cells)], ("seq", *header)))
    write(folder / "test.csv", table([(dna(2), *(test or cells))], ("seq", *header)))


@pytest.mark.parametrize(
    "header, cells, parts",
    [
        (["label_a", "label_b"], (0, 2), ("train.csv:2: label_b '2', expected 0 or 1",)),
        (["label_a"], ("x",), ("train.csv:2: label_a 'x', expected a finite number",)),
        (["value"], ("high",), ("train.csv:2: value 'high', expected a finite number",)),
        (["value"], ("inf",), ("train.csv:2: value 'inf', expected a finite number",)),
        (["value"], ("1e60",), ("train.csv:2: value '1e60', expected a finite number",)),
        (["value"], ("",), ("train.csv:2: value is known of no sequence in train",)),
        (["score"], (1,), ("train.csv:2: no column of targets; expected label",)),
        (
            ["label", "value"],
            (0, 1),
            ("'label' and 'value' are targets of several kinds; give --kind",),
        ),
    ],
)
def test_targets_that_cannot_be_read(tmp_path, header, cells, parts):
    write_targets(tmp_path, header, cells)
    refused(tmp_path, *parts)


def test_labels_in_one_cell_are_as_many_in_every_row(tmp_path):
    write_targets(tmp_path, ["label"], ['"0,1,1"'], ['"0,1"'])
    refused(tmp_path, "test.csv:2: label '0,1' has 2 parts, expected 3")


def as_parquet(path, labels, first=0):
    sequences = [dna(first + i) for i in range(len(labels))]
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table({"seq": sequences, "label": labels}), path)


@pytest.mark.parametrize(
    "labels, parts",
    [
        ([[0, 1, 1], [0, 1]], ("row 2: label '[0, 1]' has 2 parts, expected 3 as in the first",)),
        ([[0, 1], []], ("row 2: label '[]' has 1 parts, expected 2",)),
        ([[0, 1], [0, 2]], ("row 2: label_1 '2', expected 0 or 1",)),
        ([[0.5, 0.1], [1, 0]], ("row 1: label_0 '0.5', expected 0 or 1",)),
        ([["a", "b"], ["b", "c"]], ("row 1: label_0 \"'a'\", expected a finite number",)),
    ],
)
def test_lists_that_are_no_labels(tmp_path, labels, parts):
    as_parquet(tmp_path / "train.parquet", labels)
    as_parquet(tmp_path / "test.parquet", labels[:1])
    refused(tmp_path, f"{tmp_path}/train.parquet: ", *parts)


def test_splits_with_other_targets(tmp_path):
    write_targets(tmp_path, ["value_a", "value_b"], (0, 1))
    write(tmp_path / "test.csv", table([(dna(1), 2)], ("seq", "value_a")))
    refused(tmp_path, "test.csv:2: the test split has the targets value_a, train has", "'value_b'")


def test_classes_are_one_column(tmp_path):
    write_targets(tmp_path, ["label_a", "label_b"], (0, 1))
    refused(tmp_path, "train.csv:2: 2 columns of targets (label_a, label_b", kind="classes")
    refused(tmp_path, "kind 'class': expected classes, labels, values", kind="class")


# --- sequences and tables


@pytest.mark.parametrize(
    "sequence, parts",
    [
        ("ACGTEACGTACGT", ("sequence:5 has 'E', which is no DNA letter",)),
        ("ACGT ACGT", ("sequence:5 has ' '",)),
        ("MKVLWAALLVTFLAGC", ("sequence: ", "is this a protein sequence?")),
        ("", ("an empty sequence",)),
    ],
)
def test_sequences_that_are_no_dna(tmp_path, sequence, parts):
    rows = [*GOOD, (sequence, 1)]
    refused(with_train(tmp_path, rows), f"{tmp_path}/train.csv:4: ", *parts)
    write(tmp_path / "fasta/train.fa", f">a|0\nACGT\n\n>b|1\n{sequence}\n")
    write(tmp_path / "fasta/test.fa", ">a|0\nACGT\n")
    refused(tmp_path / "fasta", "train.fa:4: ", *parts)
    write(tmp_path / "texts/train/a/1.txt", sequence.replace(" ", "-"))
    write(tmp_path / "texts/test/a/1.txt", "ACGT")
    refused(tmp_path / "texts", "train/a/1.txt: ")


def test_few_ambiguity_letters_are_n(tmp_path):
    task = read_task(with_train(tmp_path, [*GOOD, ("ACGTRACGTN", 1)]))
    assert task.splits["train"].codes[2].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "text, parts",
    [
        ("", ("train.csv is empty",)),
        ("sequence,label\n", ("train.csv: no row below the header",)),
        ("sequences,label\nACGT,1\n", ("no column 'sequence' or 'seq'; it has sequences, label",)),
        ("sequence,seq,label\nA,A,1\n", ("columns 'sequence' and 'seq', expected one of them",)),
        ("sequence,label,LABEL\nA,1,1\n", ("train.csv has the column 'label' twice",)),
        ("sequence,label\n\nACGT,1\nACGT,1,\n", ("train.csv:4: 3 cells, the header has 2",)),
        ('sequence,label\nACGT,1\n"ACGT,1\n', ("train.csv:3: ", "quote")),
    ],
)
def test_tables_that_are_none(tmp_path, text, parts):
    with_train(tmp_path, GOOD)
    write(tmp_path / "train.csv", text)
    refused(tmp_path, *parts)


@pytest.mark.parametrize(
    "text, parts",
    [
        ("", ("train.fna holds no sequence",)),
        ("ACGT\n>a|1\nACGT\n", ("train.fna:1: 'ACGT', expected a header",)),
        (">a|0\nACGT\n>chr1:3-9\nACGT\n", ("train.fna:3: header 'chr1:3-9' has no label",)),
        (">a|0\nACGT\n>b|\nACGT\n", ("train.fna:3: header 'b|' has no label",)),
    ],
)
def test_fasta_that_is_none(tmp_path, text, parts):
    write(tmp_path / "train.fna", text)
    write(tmp_path / "test.fna", ">a|0\nACGT\n")
    refused(tmp_path, *parts)


def test_what_is_no_parquet(tmp_path, monkeypatch):
    whole = pyarrow.table({"seq": ["ACGT", "AGGT", "ACQTACGT"], "label": [0, 1, 1]})
    pyarrow.parquet.write_table(whole, tmp_path / "train.parquet")
    write(tmp_path / "test.parquet", "PAR1 and no more")
    refused(tmp_path, "train.parquet: row 3: sequence:3 has 'Q'")
    pyarrow.parquet.write_table(whole[:2], tmp_path / "train.parquet")
    refused(tmp_path, "test.parquet cannot be read as a Parquet table")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refused(tmp_path, "Parquet is read by pyarrow: pip install 'spacescale[tasks]'")


# --- layouts and splits


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_missing_split(tmp_path, missing):
    with_train(tmp_path, GOOD)
    (tmp_path / f"{missing}.csv").unlink()
    refused(tmp_path, f"no {missing} split in its files dev.csv, ", "found ")


def test_two_files_of_one_split(tmp_path):
    with_train(tmp_path, GOOD, valid=GOOD)
    refused(tmp_path, "has 'dev' and 'valid', which both mean the valid split")
    (tmp_path / "valid.csv").rename(tmp_path / "train.tsv")
    refused(tmp_path, "has train.csv and train.tsv for one split")


def test_shards_that_are_not_whole(tmp_path):
    data = tmp_path / "data"
    as_parquet(data / "train-00000-of-00003.parquet", [0, 1])
    as_parquet(data / "train-00002-of-00003.parquet", [0, 1], 2)
    as_parquet(data / "test-00000-of-00001.parquet", [0, 1], 4)
    refused(tmp_path, f"{data}/train-00001-of-00003.parquet is missing; expected all 3 shards")
    as_parquet(data / "train-00001-of-00003.parquet", [[0, 1], [1, 1]], 6)
    refused(tmp_path, "train-00001-of-00003.parquet: row 1: label '[0, 1]' has 2 parts, expected 1")
    columns = pyarrow.table({"seq": [dna(1)], "value": [0.5]})
    pyarrow.parquet.write_table(columns, data / "train-00001-of-00003.parquet")
    refused(tmp_path, "train-00001-of-00003.parquet has the columns seq, value", "'label' is in")
    (data / "train-00002-of-00003.parquet").unlink()
    (data / "train-00001-of-00003.parquet").unlink()
    (data / "train-00000-of-00003.parquet").rename(data / "train-00000-of-00001.parquet")
    as_parquet(tmp_path / "train.parquet", [0, 1])
    refused(tmp_path, "train.parquet and data/train-00000-of-00001.parquet for one split")


def test_two_layouts_at_once(tmp_path):
    with_train(tmp_path, GOOD)
    write(tmp_path / "test.fna", ">a|0\nACGT\n")
    refused(tmp_path, "laid out in two ways (tables and fasta): dev.csv and test.fna")


def test_what_is_no_task(tmp_path):
    write(tmp_path / "tf/0/train.csv", "sequence,label\n")
    refused(tmp_path / "tf", "holds no task: expected {train,dev,test}.csv", "folders", "meant: 0")
    refused(tmp_path / "no", "no such folder or file of a task: ")
    refused(write(tmp_path / "a.fa", ">a|0\nA\n"), "a.fa: expected a .csv, .tsv, .parquet or .bed")


def test_one_table_says_the_split_of_each_row(tmp_path):
    header = ("sequence", "label", "split")
    rows = [(dna(1), 0, "train"), (dna(2), 1, "test"), (dna(3), 1, "dev")]
    path = write(tmp_path / "a.csv", table([*rows, (dna(4), 1, "holdout")], header))
    refused(path, "a.csv:5: split 'holdout', expected train, valid (dev, val) or test")
    refused(write(path, table([*rows, (dna(4), 1, "val")], header)), "a.csv has 'dev' and 'val'")
    refused(write(path, table(rows[1:], header)), "no train split in its column 'split'")
    refused(write(path, table([rows[0][:2]], header[:2])), "a.csv: no column 'split'")


def test_class_files_of_which_one_has_no_row(tmp_path):
    header = ("id", "region", "start", "end", "strand")
    genome = write(tmp_path / "genome.fa", f">chr1\n{dna(1, 100)}\n")
    text = table([(1, "chr1", 0, 9, "+")], header)
    for name in ("train/a", "train/b", "test/a", "test/b"):
        write(tmp_path / "set" / f"{name}.csv", text)
    refused(tmp_path / "set", "holds places of a genome and no sequences; expected genome=")
    write(tmp_path / "set/metadata.yaml", "classes:\n  a:\n    url: ftp://there/hg38.fa.gz\n")
    refused(tmp_path / "set", "expected genome=", "(metadata.yaml names ftp://there/hg38.fa.gz)")
    write(tmp_path / "set/train/b.csv.gz", text)
    refused(tmp_path / "set", "train has b.csv and b.csv.gz, both of the class 'b'", genome=genome)
    (tmp_path / "set/train/b.csv.gz").unlink()
    write(tmp_path / "set/train/b.csv", table([], header))
    refused(tmp_path / "set", "train/b.csv: no row below the header", genome=genome)
    (tmp_path / "set/train/b.csv").unlink()
    refused(tmp_path / "set", "test/b.csv:2: class 'b' is in test and not in train", genome=genome)


def test_classes_of_several_genomes_that_are_not_given(tmp_path):
    genome = write(tmp_path / "genome.fa", f">X\n{dna(1, 100)}\n")
    text = table([(1, "X", 0, 9, "+")], ("id", "region", "start", "end", "strand"))
    for name in ("train/human", "train/worm", "test/human", "test/worm"):
        write(tmp_path / "set" / f"{name}.csv", text)
    each = "expected --genome human=FASTA --genome worm=FASTA"
    refused(tmp_path / "set", "no genome is given of the class 'worm'", each,
            genome={"human": genome, "wrom": genome})  # fmt: skip
    urls = "classes:\n  human:\n    url: a/hg38.fa.gz\n  worm:\n    url: a/ce11.fa.gz\n"
    write(tmp_path / "set/metadata.yaml", urls)
    for one in (genome, None):
        refused(tmp_path / "set", "holds places of 2 genomes", each,
                "(metadata.yaml names a/hg38.fa.gz, a/ce11.fa.gz)", genome=one)  # fmt: skip
    rows = [("X", 0, 9, "train", 0), ("X", 3, 20, "test", 1)]
    header = ("chromosome", "start", "end", "split", "label")
    path = write(tmp_path / "a.bed", table(rows, header, "\t"))
    refused(path, "a.bed: genomes of the classes human, worm;", "expected one FASTA or 2bit file",
            genome={"human": genome, "worm": genome})  # fmt: skip


@pytest.mark.parametrize(
    "place, parts",
    [
        (("chr1", 5, 5, "+"), ("chr1:5-5, expected 0 ≤ start < end ≤ 100",)),
        (("chr1", -1, 5, "+"), ("chr1:-1-5, expected 0 ≤ start",)),
        (("chr1", 90, 101, "+"), ("chr1:90-101, expected",)),
        (("chr1", "x", 101, "+"), ("chr1:x-101, expected",)),
        (("chr1", 0, 9, "forward"), ("strand 'forward', expected + or -",)),
        (("chr7", 0, 9, "+"), ("genome.fa has no contig 'chr7'; did you mean chr1?",)),
    ],
)
def test_places_that_the_genome_lacks(tmp_path, place, parts):
    genome = write(tmp_path / "genome.fa", f">chr1\n{dna(1, 100)}\n")
    header = ("chromosome", "start", "end", "strand", "split", "label")
    rows = [("1", 0, 9, "+", "test", 0), (*place, "train", 1)]
    path = write(tmp_path / "a.bed", table(rows, header, "\t"))
    refused(path, "a.bed:3: ", *parts, genome=genome)


def test_labels_of_a_bed_that_are_not_in_its_hdf5(tmp_path):
    genome = write(tmp_path / "genome.fa", f">chr1\n{dna(1, 100)}\n")
    rows = [("chr1", 0, 9, "test"), ("chr1", 3, 20, "train")]
    path = write(tmp_path / "a.bed", table(rows, ("chromosome", "start", "end", "split"), "\t"))
    refused(path, "a.bed: no column 'label', and no a.hdf5 beside it", genome=genome)
    write(tmp_path / "a.hdf5", "no")
    refused(path, "a.hdf5 cannot be read as HDF5", genome=genome)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["label"] = np.zeros((2, 3))
        file.create_group("labels")
    refused(path, "a.hdf5: no dataset 'labels'; it has label, labels", genome=genome)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["labels"] = np.zeros((3, 3))
    refused(path, "labels are float64 (3, 3), expected numbers (2,) or (2, C)", genome=genome)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["labels"] = np.array([[0, 1], [1, 5]])
    refused(path, "a.bed:3: label_1 '5', expected 0 or 1", genome=genome)
    for labels, each in ((np.zeros((2, 17)), "base"), (np.arange(34).reshape(2, 17), "base")):
        with h5py.File(tmp_path / "a.hdf5", "w") as file:
            file["labels"] = labels
        refused(path, f"(2, 17), one for each {each} of a sequence of 17 bp", genome=genome)
    write(tmp_path / "b.bed", "")
    refused(tmp_path, "has a.bed and b.bed; give one of them", genome=genome)


def test_labels_of_bins_are_not_those_of_sequences(tmp_path):
    genome = write(tmp_path / "genome.fa", f">chr1\n{dna(1, 26_000)}\n")
    for bp, number in ((12_800, 100), (512, 4)):
        rows = [("chr1", 0, bp, "test"), ("chr1", bp, 2 * bp, "train"), ("chr1", 3, bp, "train")]
        path = write(tmp_path / "a.bed", table(rows, ("chromosome", "start", "end", "split"), "\t"))
        with h5py.File(tmp_path / "a.hdf5", "w") as file:
            file["labels"] = np.ones((3, number), np.uint8)
        if number == 100:
            refused(path, "one for each 128 bp of a sequence of 12,800 bp", genome=genome)
        else:
            assert len(read_task(path, genome=genome, valid_share=0.5).outputs) == 4


def test_a_class_whose_folder_is_empty(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / split / "a" / "1.txt", dna(1))
        (tmp_path / split / "b").mkdir()
    refused(tmp_path, f"{tmp_path}/train/b: no .txt in it; expected a sequence of this class")
