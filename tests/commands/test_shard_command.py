"""data_prep/shard.py as users run it: bad input ends with status 2 and nothing written."""

import gzip
import re
import sys

import pyBigWig
import pytest
from commands import DATA_PREP, run, run_here

SMALL = ["--seq-length", "192", "--bin-size", "16", "--target-length", "8"]
SPLITS = ["--valid-chroms", "chrII", "--test-chroms", "chrIII"]


def write_bigwig(path, lengths):
    with pyBigWig.open(str(path), "w") as file:
        file.addHeader(list(lengths.items()))
        for name, length in lengths.items():
            file.addEntries(name, 0, values=[1.5] * length, span=1, step=1)


@pytest.fixture
def folder(tmp_path):
    inputs = tmp_path / "user files"
    inputs.mkdir()
    fasta = "".join(f">chr{name}\n{'ACGT' * 250}\n" for name in ("I", "II", "III"))
    (inputs / "genome.fa").write_text(fasta)
    write_bigwig(inputs / "a.bw", {"chrI": 1000, "chrII": 1000, "chrIII": 1000})
    (inputs / "targets.txt").write_text("index\tidentifier\tfile\n0\ta\ta.bw\n")
    return inputs


def in_new_process(*words, cwd):
    return run(sys.executable, DATA_PREP / "shard.py", *words, cwd=cwd)


def in_this_process(*words, cwd):
    return run_here(DATA_PREP / "shard.py", *words, cwd=cwd)


def shard(folder, *arguments, out=None, start=in_this_process):
    words = ["--species", "tiny", "--fasta", folder / "genome.fa",
             "--targets", folder / "targets.txt", "--out", out or folder / "out",
             *SMALL]  # fmt: skip
    return start(*words, *arguments, cwd=folder)


def test_a_good_run_prints_settings_and_summary(folder):
    done = shard(folder, *SPLITS, start=in_new_process)
    assert (done.returncode, done.stderr) == (0, "")
    assert "stride 128 bp, transform basenji2020" in done.stdout
    assert re.search(r"windows +train 7, valid 7, test 7", done.stdout)
    assert "next:" in done.stdout
    assert [p.name for p in (folder / "out").iterdir()] == ["tiny"]
    assert sorted(p.name for p in folder.iterdir()) == ["a.bw", "genome.fa", "out", "targets.txt"]


def test_the_bare_command_holds_out_two_contigs_and_says_so(folder):
    done = shard(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"windows +train 7, valid 7, test 7", done.stdout)
    # All are equally long, so the names decide.
    assert "warning: no split was given, so test is chrI (33 %) and valid chrII" in done.stdout
    assert "choose with --valid-chroms and --test-chroms" in done.stdout


def test_the_bare_command_needs_three_contigs(folder):
    write_bigwig(folder / "a.bw", {"chrI": 1000, "chrII": 1000})
    done = shard(folder)
    assert done.returncode == 2
    assert (
        "error: no splits given; held-out contigs must be chosen by you: --contigs" in done.stderr
    )
    assert not (folder / "out").exists()


def no_fasta(folder):
    (folder / "genome.fa").unlink()


def protein(folder):
    (folder / "genome.fa").write_text(">p1\nMKVLATGGHWQERTYIPASDFGHKLCVNM\n")


def odd_letter(folder):
    (folder / "genome.fa").write_text(">chrI\nACGT*" + "ACGT" * 50 + "\n")


def cut_gzip(folder):
    content = gzip.compress((folder / "genome.fa").read_bytes())
    (folder / "genome.fa").write_bytes(content[: len(content) // 2])


def no_bigwig(folder):
    (folder / "a.bw").unlink()


def html(folder):
    (folder / "a.bw").write_text("<!DOCTYPE html><title>404</title>")


def empty_bigwig(folder):
    (folder / "a.bw").write_bytes(b"")


def cut_bigwig(folder):
    content = (folder / "a.bw").read_bytes()
    (folder / "a.bw").write_bytes(content[: len(content) // 3])


def plain_names(folder):
    write_bigwig(folder / "a.bw", {"I": 1000, "II": 1000})


def other_genome(folder):
    write_bigwig(folder / "a.bw", {"I": 999})


def other_assembly(folder):
    write_bigwig(folder / "a.bw", {"chrI": 1000, "chrII": 990})


def no_test_coverage(folder):
    write_bigwig(folder / "a.bw", {"chrI": 1000, "chrII": 1000})


def sum_stat(folder):
    (folder / "targets.txt").write_text("index\tidentifier\tfile\tsum_stat\n0\ta\ta.bw\tsum_sqrt\n")


def strand_pair(folder):
    (folder / "targets.txt").write_text(
        "index\tidentifier\tfile\tstrand_pair\n0\ta\ta.bw\t1\n1\tb\ta.bw\t1\n"
    )


def cut_two_bit(folder):
    (folder / "genome.fa").write_bytes(b"\x43\x27\x41\x1a" + bytes(4) + b"\x02" + bytes(7))


def existing(folder):
    (folder / "out" / "tiny").mkdir(parents=True)


@pytest.mark.parametrize(
    "damage, message",
    [
        (no_fasta, "no such FASTA or 2bit file"),
        (protein, "p1: .* is this a protein"),
        (odd_letter, r"chrI:5 has '\*'"),
        (cut_gzip, "truncated gzip"),
        (cut_two_bit, "truncated 2bit"),
        (no_bigwig, "targets.txt: 1 of the 1 files of tracks are not there, such as .*a.bw of a;"),
        (html, "a.bw is an HTML or XML page"),
        (empty_bigwig, "a.bw is an empty file"),
        (cut_bigwig, "a.bw is a truncated BigWig"),
        (plain_names, "it has I, II; the FASTA has chrI.*I = chrI, II = chrII.*--aliases auto"),
        (other_genome, "it has I; the FASTA has chrI, .*--aliases FILE"),
        (other_assembly, "contig chrII has 990 bp, but chrII in .* has 1000: assembly mismatch"),
        (no_test_coverage, "split test has no window: no contig of chrIII is in every track"),
        (sum_stat, "track a: transform basenji2020 has no sum_stat 'sum_sqrt'; it has sum, mean"),
        (strand_pair, "targets.txt:2: strand_pair 1 does not name this track back"),
        (existing, "tiny exists; add --overwrite"),
    ],
)  # fmt: skip
def test_bad_files(folder, damage, message):
    damage(folder)
    before = sorted(folder.rglob("*"))
    done = shard(folder, *SPLITS)
    assert done.returncode == 2
    assert re.search(rf"^error: .*{message}", done.stderr)
    assert "Traceback" not in done.stderr
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--valid-chroms", "chr2"], "the FASTA has no contig 'chr2'; did you mean"),
        (["--valid-chroms", "II,IV"], "no contigs II, IV; did you mean II = chrII.*aliases auto"),
        (["--valid-chroms", "chrI", "--test-chroms", "chrI"], "chrI is in two splits"),
        (["--contigs", "none.bed"], "cannot read the BED file none.bed"),
        (["--contigs", "bad.bed"], "bad.bed:2: start 9 is not before end 5"),
        (["--contigs", "short.bed"], "split train has no window: a target spans 128 bp"),
        ([*SPLITS, "--contigs", "bad.bed"], "give the splits one way"),
        ([*SPLITS, "--aliases", "none.tsv"], "cannot read the aliases file none.tsv"),
        ([*SPLITS, "--seq-length", "64"], "seq_length 64 must exceed"),
    ],
)  # fmt: skip
def test_bad_arguments(folder, arguments, message):
    (folder / "bad.bed").write_text("chrI\t0\t500\ttrain\nchrII\t9\t5\ttest\n")
    (folder / "short.bed").write_text("chrI\t0\t100\ttrain\n")
    before = sorted(folder.rglob("*"))
    done = shard(folder, *arguments)
    assert done.returncode == 2
    assert re.search(rf"^error: .*{message}", done.stderr)
    assert sorted(folder.rglob("*")) == before


def test_an_unwritable_folder(folder):
    (folder / "file").write_text("")
    place = folder / "file" / "deep"
    done = shard(folder, *SPLITS, out=place, start=in_new_process)
    assert done.returncode == 2
    assert re.search(r"^error: cannot make the folder .*deep: Not a directory", done.stderr)
