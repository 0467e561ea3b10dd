"""Where sequences lie, as files say it, and whether the genome agrees."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from task_files import dna, table, write, write_splits

from spacescale.errors import UserError
from spacescale.genome.dna import encode, reverse_complement
from spacescale.genome.open_genome import OpenGenome
from spacescale.tasks.loci import in_genome, named_loci
from spacescale.tasks.read_task import read_task
from spacescale.tasks.task import Locus

CONTIG = dna(99, 200)
GENOME = OpenGenome(Path("genome.fa"), {"chr1": encode(CONTIG), "chr2": encode(dna(98, 50))})
HEADER = ("Chrom", "start", "end", "strand", "sequence", "label", "split")
PLACES = [("chr1", 3, 15, "+", "train"), ("1", 20, 40, "-", "train"), ("chr1", 50, 60, ".", "dev"),
          ("chr1", 180, 200, "-", "test")]  # fmt: skip


def bases(start, end, strand):
    codes = encode(CONTIG[start:end])
    return "".join("ACGTN"[c] for c in (reverse_complement(codes) if strand == "-" else codes))


def write_table(folder, places=PLACES, header=HEADER):
    rows = [(contig, start, end, strand, bases(start, end, strand), i % 2, split)
            for i, (contig, start, end, strand, split) in enumerate(places)]  # fmt: skip
    return write(folder / "a.csv", table(rows, header))


def test_a_table_of_sequences_may_say_where_they_lie(tmp_path):
    task = read_task(write_table(tmp_path))
    assert task.splits["train"].loci == (Locus("chr1", 3, 15), Locus("1", 20, 40, True))
    assert task.splits["valid"].loci == (Locus("chr1", 50, 60),)
    assert task.splits["train"].take(np.array([1])).loci == (Locus("1", 20, 40, True),)
    found = in_genome(task, GENOME)
    assert found.splits["train"].loci[1] == Locus("chr1", 20, 40, True)


@pytest.mark.parametrize("start", ["", "x", "-1", "15"])
def test_columns_that_mean_something_else_are_no_places(tmp_path, start):
    path = write_table(tmp_path)
    write(path, path.read_text().replace("chr1,3,", f"chr1,{start},"))
    assert read_task(path).splits["train"].loci == ()


def test_headers_of_fasta_may_say_it(tmp_path):
    for split, first in (("train", 10), ("dev", 60), ("test", 110)):
        rows = [f">chr1:{s}-{s + 12}|{i}\n{CONTIG[s : s + 12]}\n"
                for i, s in enumerate((first, first + 20))]  # fmt: skip
        write(tmp_path / f"{split}.fna", "".join(rows))
    task = in_genome(read_task(tmp_path), GENOME)
    assert task.splits["test"].loci == (Locus("chr1", 110, 122), Locus("chr1", 130, 142))
    assert named_loci(["a:1-3(-)", "b:2-9+"]) == [Locus("a", 1, 3, True), Locus("b", 2, 9)]
    assert named_loci(["chr1:1-3", "chr1:3-1"]) == named_loci(["chr1:1-3", "peak_7"]) == []


def test_layouts_with_places_keep_them(tmp_path):
    genome = write(tmp_path / "genome.fa", f">chr1\n{CONTIG}\n")
    header = ("id", "region", "start", "end", "strand")
    for split, first in (("train", 0), ("test", 100)):
        for place, label in enumerate(("a", "b")):
            rows = [(i, "1", first + i, first + i + 9, "+-"[place]) for i in range(3)]
            write(tmp_path / "set" / split / f"{label}.csv", table(rows, header))
    task = in_genome(read_task(tmp_path / "set", genome=genome, valid_share=0.4), GENOME)
    assert task.splits["test"].loci[2:4] == (Locus("chr1", 102, 111), Locus("chr1", 100, 109, True))
    both = task.splits["train"].loci + task.splits["valid"].loci
    assert sorted(both) == sorted(Locus("chr1", i, i + 9, m) for i in range(3) for m in (0, 1))
    rows = [("chr1", 5, 9, "train", 0), ("chr1", 0, 8, "train", 1), ("chr1", 9, 19, "test", 1),
            ("chr1", 30, 50, "valid", 1)]  # fmt: skip
    header = ("chromosome", "start", "end", "split", "label")
    bed = write(tmp_path / "a.bed", table(rows, header, "\t"))
    assert read_task(bed, genome=genome).splits["test"].loci == (Locus("chr1", 9, 19),)


def write_archive(path, words):
    with h5py.File(path, "w") as file:
        for split, starts in {"train": (3, 40), "valid": (90,), "test": (140,)}.items():
            codes = np.stack([encode(CONTIG[s : s + 20]) for s in starts])
            file[f"x_{split}"] = np.eye(4)[codes]
            file[f"y_{split}"] = np.arange(len(starts)) % 2
            file[f"coords_{split}"] = words(starts)
    return path


def test_an_archive_may_say_it(tmp_path):
    path = write_archive(tmp_path / "a.h5", lambda of: [f"chr1:{s}-{s + 20}" for s in of])
    task = in_genome(read_task(path), GENOME)
    assert task.splits["train"].loci == (Locus("chr1", 3, 23), Locus("chr1", 40, 60))
    path = write_archive(tmp_path / "b.h5", lambda of: list(of))
    with pytest.raises(UserError, match=r"coords_train is int64 \(2,\), expected \(2,\) words"):
        read_task(path)


def test_without_places_nothing_is_placed(tmp_path):
    rows = [(dna(1), 0), (dna(2), 1)]
    write_splits(tmp_path, train=rows, dev=rows, test=rows)
    with pytest.raises(UserError, match="nothing says where in a genome its train sequences lie"):
        in_genome(read_task(tmp_path), GENOME)


@pytest.mark.parametrize(
    "place, message",
    [
        (("chr7", 3, 15, "+"), "a.csv:2: genome.fa has no contig 'chr7'; did you mean"),
        (("chr2", 3, 15, "+"), "genome.fa has another sequence at chr2:3-15 (+); expected these"),
        (("chr1", 3, 16, "+"), "another sequence at chr1:3-16 (+); expected these 12 bp, 0-based"),
        (("chr1", 3, 15, "-"), "another sequence at chr1:3-15 (-)"),
        (("chr1", 300, 312, "+"), "another sequence at chr1:300-312 (+)"),
    ],
)
def test_a_place_that_holds_other_bases_is_refused(tmp_path, place, message):
    path = write_table(tmp_path)
    old = ",".join(map(str, PLACES[0][:4]))
    write(path, path.read_text().replace(old, ",".join(map(str, place))))
    with pytest.raises(UserError, match=re.escape(message)):
        in_genome(read_task(path), GENOME)


def test_n_may_be_any_base(tmp_path):
    path = write_table(tmp_path)
    first = CONTIG[3:15]
    write(path, path.read_text().replace(first, "N" + first[1:]))
    in_genome(read_task(path), GENOME)
