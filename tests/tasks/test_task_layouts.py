"""Every layout, from files of a few lines."""

import zlib

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from task_files import dna, letters, same_sequences, table, write, write_splits

from spacescale.genome.dna import encode, reverse_complement
from spacescale.tasks.read_task import read_task
from spacescale.tasks.tables import read_table
from spacescale.tasks.task import SPLITS

TRAIN = [(dna(1), 0), (dna(2, 7), 1), (dna(3).lower(), 0)]
VALID, TEST = [(dna(4), 1)], [(dna(5), 1), (dna(6), 0)]
CONTIG = dna(99, 200)


def require_three_splits(task):
    assert task.kind == "classes" and task.outputs == ("0", "1")
    assert list(task.splits) == ["train", "valid", "test"]
    for split, rows in {"train": TRAIN, "valid": VALID, "test": TEST}.items():
        same_sequences(task.splits[split], [sequence for sequence, _ in rows])
        np.testing.assert_array_equal(task.splits[split].targets, [label for _, label in rows])
        assert task.splits[split].targets.dtype == np.int64
    assert task.splits["train"].lengths.tolist() == [12, 7, 12]


@pytest.fixture
def genome(tmp_path):
    return write(tmp_path / "genome.fa", f">chr1\n{CONTIG[:100]}\n{CONTIG[100:]}\n>chrX\nACGTNA\n")


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv"])
@pytest.mark.parametrize("validation", ["dev", "valid", "val", "validation"])
def test_tables_of_splits(tmp_path, ending, validation):
    folder = tmp_path / "tf" / "0"
    write_splits(folder, ending, train=TRAIN, test=TEST, **{validation: VALID})
    write(folder / "README.md", "not read")
    task = read_task(folder)
    require_three_splits(task)
    assert (task.name, task.layout, task.notes, task.path) == ("tf_0", "tables", [], folder)
    assert task.splits["train"].names == [f"train{ending}:{line}" for line in (2, 3, 4)]
    assert task.splits["train"].groups == ()
    assert read_task(folder, name="mine").name == "mine"


def test_a_parquet_table(tmp_path):
    for split, rows in {"train": TRAIN, "valid": VALID, "test": TEST}.items():
        columns = dict(zip(("seq", "label"), map(list, zip(*rows, strict=True)), strict=True))
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / f"{split}.parquet")
    task = read_task(tmp_path)
    require_three_splits(task)
    assert task.splits["test"].names == ["test.parquet: row 1", "test.parquet: row 2"]


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv", ".parquet"])
@pytest.mark.parametrize("folder", ["", "data"])
@pytest.mark.parametrize("has_hash", [False, True])
def test_shards_are_read_in_order(tmp_path, ending, folder, has_hash):
    """As the Hub has them; written here in another order."""

    def name(split, number, of):
        suffix = f"-{zlib.crc32(bytes([number])):016x}" if has_hash else ""
        return f"{split}-{number:05}-of-{of:05}{suffix}{ending}"

    def shard(split, number, of, rows):
        path = tmp_path / "set" / folder / name(split, number, of)
        if ending != ".parquet":
            return write(path, table(rows, delimiter="\t" if ending == ".tsv" else ","))
        path.parent.mkdir(parents=True, exist_ok=True)
        sequences, labels = map(list, zip(*rows, strict=True))
        pyarrow.parquet.write_table(pyarrow.table({"sequence": sequences, "label": labels}), path)

    for number in (10, *range(10), 11):
        shard("train", number, 12, [(dna(number), number % 2)])
    shard("validation", 0, 1, VALID)
    shard("test", 1, 2, TEST[1:])
    shard("test", 0, 2, TEST[:1])
    write(tmp_path / "set/README.md", "not read")
    task = read_task(tmp_path / "set")
    assert (task.name, task.layout, list(task.splits)) == ("set", "tables", [*SPLITS])
    same_sequences(task.splits["train"], [dna(number) for number in range(12)])
    assert task.splits["train"].targets.tolist() == [0, 1] * 6
    same_sequences(task.splits["test"], [sequence for sequence, _ in TEST])
    row = ": row 1" if ending == ".parquet" else ":2"
    assert task.splits["test"].names == [f"{name('test', i, 2)}{row}" for i in (0, 1)]


@pytest.mark.parametrize("ending", [".fna", ".fa.gz", ".fasta"])
def test_fasta_with_the_label_behind_the_last_bar(tmp_path, ending):
    for split, rows in {"train": TRAIN, "valid": VALID, "test": TEST}.items():
        records = [f">chr1:{i}|of two words|{label}\n{s[:5]}\n{s[5:]}\n\n"
                   for i, (s, label) in enumerate(rows)]  # fmt: skip
        write(tmp_path / f"{split}{ending}", "".join(records))
    task = read_task(tmp_path)
    require_three_splits(task)
    assert task.layout == "fasta"
    assert task.splits["valid"].names == ["chr1:0|of two words"]


def test_one_table_with_a_column_of_splits(tmp_path):
    rows = [
        ("g1", "TEST", "n5", dna(5), "worm"),
        ("g2", "train", "n1", dna(1), "human"),
        ("g1", "dev", "n4", dna(4), "human"),
        ("g3", "train", "n2", dna(2), "worm"),
    ]
    path = write(tmp_path / "two.csv", table(rows, ("group", "split", "name", "Sequence", "Label")))
    task = read_task(path)
    assert (task.layout, task.name, task.outputs) == ("one_table", "two", ("human", "worm"))
    assert task.notes[0] == "classes are numbered in the order of their words: 0 human, 1 worm"
    train = task.splits["train"]
    same_sequences(train, [dna(1), dna(2)])
    assert (train.names, train.groups) == (["n1", "n2"], ("g2", "g3"))
    assert train.targets.tolist() == [0, 1] and task.splits["test"].targets.tolist() == [1]


def test_files_of_dream_keep_their_adapters_and_group_orientations(tmp_path):
    for split, numbers in {"train": (1, 2), "val": (3,), "test": (4,)}.items():
        rows = [(f"seq{n}_{way}", f"AAAAACC{dna(n)}GTTGTT", n / 2, 0)
                for n in numbers for way in ("F", "Reversed:")]  # fmt: skip
        header = ("seq_id", "seq", "mean_value", "fold")
        write(tmp_path / f"sample_{split}.txt", table(rows, header, "\t"))
    task = read_task(tmp_path)
    assert (task.layout, task.kind, task.outputs) == ("dream", "values", ("mean_value",))
    train = task.splits["train"]
    assert train.groups == ("seq1", "seq1", "seq2", "seq2") and train.names[1] == "seq1_Reversed:"
    assert train.targets.tolist() == [[0.5], [0.5], [1.0], [1.0]]
    (note,) = task.notes
    assert "begins with AAAAACC" in note and "GTTGTT, as it was measured" in note


def coordinates(folder):
    write(folder / "train/.hidden.csv", "left by a file manager")
    write(folder / "metadata.yaml", "classes:\n  positive:\n    url: http://there/a.fa.gz\n")
    header = ("id", "region", "start", "end", "strand")
    for split in ("train", "test"):
        shift = 20 if split == "test" else 0
        plus = [(f"p{i}", "1", 3 + i + shift, 13 + i + shift, "+") for i in range(3)]
        minus = [(f"n{i}", "chr1", 95 + i + shift, 107 + i + shift, "-") for i in range(2)]
        write(folder / split / "positive.csv.gz", table(plus, header))
        write(folder / split / "negative.csv.gz", table(minus, header))
    return folder


def test_places_of_genomic_benchmarks(tmp_path, genome):
    task = read_task(coordinates(tmp_path / "set"), genome=genome, valid_share=0.34)
    assert (task.layout, task.outputs) == ("genomic_benchmarks", ("negative", "positive"))
    test = task.splits["test"]
    minus = [letters(reverse_complement(encode(CONTIG[s : s + 12]))) for s in (115, 116)]
    same_sequences(test, [*minus, *(CONTIG[s : s + 10] for s in (23, 24, 25))])
    assert test.targets.tolist() == [0, 0, 1, 1, 1]
    assert test.names[0] == "chr1:115-127-" and test.names[2] == "1:23-33+"
    assert len(task.splits["train"]) == 3 and len(task.splits["valid"]) == 2


def test_classes_may_have_genomes_of_their_own(tmp_path):
    """X of the worm is no X of human; its contigs are called otherwise as well."""
    header, other = ("id", "region", "start", "end", "strand"), dna(98, 60)
    genomes = {
        "human": write(tmp_path / "human.fa", f">chrX\n{CONTIG}\n"),
        "worm": write(tmp_path / "worm.fa", f">X\n{other}\n>IV\n{dna(97, 50)}\n"),
    }
    urls = "".join(f"  {name}:\n    url: there/{name}.fa.gz\n" for name in genomes)
    write(tmp_path / "set/metadata.yaml", f"classes:\n{urls}")
    for split, start in (("train", 10), ("valid", 20), ("test", 30)):
        for name, contig in (("human", "chrX"), ("worm", "X")):
            rows = [("1", contig, start, start + 12, "+")]
            write(tmp_path / "set" / split / f"{name}.csv.gz", table(rows, header))
    task = read_task(tmp_path / "set", genome=genomes)
    assert task.outputs == ("human", "worm")
    same_sequences(task.splits["test"], [CONTIG[30:42], other[30:42]])


def test_a_sequence_a_file(tmp_path):
    for split, first in (("train", 0), ("valid", 20), ("test", 40)):
        for label in ("pos", "neg"):
            for i in range(2):
                number = first + 10 * (label == "pos") + i
                write(tmp_path / split / label / f"{i}.txt", f"{dna(number)}\n")
    task = read_task(tmp_path)
    assert (task.layout, task.outputs) == ("class_folders", ("neg", "pos"))
    same_sequences(task.splits["test"], [dna(40), dna(41), dna(50), dna(51)])
    assert task.splits["test"].targets.tolist() == [0, 0, 1, 1]


BED = [("chr1", 0, 8, "test"), ("chr1", 90, 110, "train"), ("chrX", 0, 6, "valid")]


@pytest.mark.parametrize(
    "columns, cells, kind, outputs, train",
    [
        (("label",), [("0,1",), ("1,1",), ("1,0",)], "labels", ("0", "1"), [[1, 1]]),
        (("label_a", "label:b"), [(0, 1), (1, ""), (1, 0)], "labels", ("a", "b"), [[1, np.nan]]),
    ],
)
def test_places_of_bend(tmp_path, genome, columns, cells, kind, outputs, train):
    if outputs[-1] == "b":  # b must be known somewhere in train
        extra_bed, extra_cells = [("chr1", 1, 9, "train")], [("", 0)]
        train = [*train, [np.nan, 0]]
    else:
        extra_bed, extra_cells = [], []
    rows = [(*a, *b) for a, b in zip(BED + extra_bed, cells + extra_cells, strict=True)]
    header = ("#chromosome", "start", "end", "split", *columns)
    path = write(tmp_path / "a.bed", table(rows, header, "\t"))
    task = read_task(path, genome=genome)
    assert (task.layout, task.kind, task.outputs) == ("bend", kind, outputs)
    np.testing.assert_array_equal(task.splits["train"].targets, np.float32(train))
    assert letters(task.splits["train"].codes[0]) == CONTIG[90:110]
    assert letters(task.splits["valid"].codes[0]) == "ACGTNA"
    assert task.splits["test"].names == ["chr1:0-8"]


def test_numbers_of_labels_of_bend(tmp_path, genome):
    rows = [(*place, cell) for place, cell in zip(BED, ("0,3", "", "2"), strict=True)]
    path = write(
        tmp_path / "a.bed", table(rows, ("chromosome", "start", "end", "split", "label"), "\t")
    )
    task = read_task(path, genome=genome)
    assert (task.kind, task.outputs) == ("labels", ("0", "1", "2", "3"))
    found = {split: examples.targets[0].tolist() for split, examples in task.splits.items()}
    assert found == {"train": [0, 0, 0, 0], "valid": [0, 0, 1, 0], "test": [1, 0, 0, 1]}


@pytest.mark.parametrize(
    "labels, kind",
    [
        (np.array([[0, 1, 1], [1, 0, 1], [0, 0, 0]], np.uint8), "labels"),
        (np.array([1, 0, 0]), "classes"),
        (np.array([0.0, 1.0, 1.0]), "classes"),
    ],
)
def test_labels_of_bend_in_hdf5(tmp_path, genome, labels, kind):
    bed = [("chr1", 5, 9, "train"), *BED]
    labels = np.concatenate([1 - labels[1:2], labels])
    write(tmp_path / "a.bed", table(bed, ("chromosome", "start", "end", "split"), "\t"))
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["labels"] = labels
    task = read_task(tmp_path, genome=genome)
    assert task.kind == kind and task.layout == "bend"
    np.testing.assert_array_equal(task.splits["train"].targets, labels[[0, 2]])
    np.testing.assert_array_equal(task.splits["test"].targets, labels[[1]])


def test_a_genome_that_is_not_needed_is_told(tmp_path, genome):
    write_splits(tmp_path / "a", train=TRAIN, dev=VALID, test=TEST)
    assert read_task(tmp_path / "a", genome=genome).notes == [
        "the genome genome.fa was not needed to read sequences: the files hold them"
    ]
    both = {"human": genome, "worm": tmp_path / "worm.fa"}
    assert read_task(tmp_path / "a", genome=both).notes == [
        "the genome genome.fa, worm.fa was not needed to read sequences: the files hold them"
    ]


@pytest.mark.parametrize("name", [None, "first"])
def test_where_each_row_stands_is_kept(tmp_path, name):
    header = ("sequence", "label", *(["name"] if name else []))
    for split in ("train", "test"):
        rows = [(dna(i), i % 2, *([f"{name}{i}"] if name else [])) for i in range(10)]
        write(tmp_path / f"{split}.csv", table(rows, header))
    task = read_task(tmp_path, valid_share=0.2)
    found = {
        source: codes.tolist()
        for part in task.splits.values()
        for source, codes in zip(part.sources, part.codes, strict=True)
    }
    assert found == {f"{tmp_path}/{split}.csv:{i + 2}": encode(dna(i)).tolist()
                     for split in ("train", "test") for i in range(10)}  # fmt: skip


def test_long_sequences_stand_in_quotes(tmp_path):
    (tmp_path / "t.csv").write_text(f'sequence,label\n"{"ACGT" * 50_000}",1\n')
    assert read_table(tmp_path / "t.csv").columns["sequence"] == ["ACGT" * 50_000]
