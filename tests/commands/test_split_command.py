"""split.py -> shard.py -> leakage.py as users run them, on two genomes with known homology."""

import json
import sys

import numpy as np
import pyBigWig
import pytest
from commands import DATA_PREP, run, run_here

SHIFT = 137  # mouse position of human position 0; chrB is the reverse strand of chrA
LENGTH = 20_000
SMALL = ["--seq-length", "192", "--bin-size", "16", "--target-length", "8"]


def write_species(folder, chrom, length):
    letters = "".join(np.random.default_rng(length).choice(list("ACGT"), length))
    folder.mkdir()
    (folder / "genome.fa").write_text(f">{chrom}\n{letters}\n")
    with pyBigWig.open(str(folder / "a.bw"), "w") as file:
        file.addHeader([(chrom, length)])
        file.addEntries(chrom, 0, values=[1.5] * length, span=1, step=1)
    (folder / "targets.txt").write_text("index\tidentifier\tfile\n0\ta\ta.bw\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("species")
    write_species(folder / "human", "chrA", LENGTH)
    write_species(folder / "mouse", "chrB", LENGTH + 500)
    # 100 aligned bp in every 1,000 of human, on the reverse strand of mouse
    rows = "".join("100 900 900\n" for _ in range(19))
    header = f"chain 9 chrA {LENGTH} + 0 19100 chrB {LENGTH + 500} - {SHIFT} {SHIFT + 19100} 1\n"
    (folder / "hm.chain").write_text(header + rows + "100\n")
    return folder


def in_new_process(script, *words):
    return run(sys.executable, script, *words)


def split(folder, out, *more, run=run_here):
    return run(
        DATA_PREP / "split.py", "--genome", f"human={folder / 'human/genome.fa'}",
        "--genome", f"mouse={folder / 'mouse/genome.fa'}",
        "--homology", f"human:mouse={folder / 'hm.chain'}", "--out", out, *more,
    )  # fmt: skip


def shard(folder, species, *more, run=run_here):
    inputs = folder / species
    return run(
        DATA_PREP / "shard.py", "--species", species, "--fasta", inputs / "genome.fa",
        "--targets", inputs / "targets.txt", *SMALL, *more,
    )  # fmt: skip


def leakage(folder, data, *more, run=run_here):
    return run(
        DATA_PREP / "leakage.py", data, "--homology", f"human:mouse={folder / 'hm.chain'}", *more
    )


def test_splits_that_do_not_leak(folder, tmp_path):
    done = split(folder, tmp_path / "splits", "--block", "500", "--seed", "1", run=in_new_process)
    assert (done.returncode, done.stderr) == (0, "")
    assert "human: 40 blocks; valid 10.0 %, train 80.0 %, test 10.0 % of known bases" in done.stdout
    assert "groups; the largest held 2.5 % of human" in done.stdout
    for species in ("human", "mouse"):
        bed = tmp_path / "splits" / f"{species}.bed"
        assert bed.read_text().startswith("# made by data_prep/split.py: block 500, seed 1, ")
        made = shard(
            folder, species, "--contigs", bed, "--out", tmp_path / "data", run=in_new_process
        )
        assert (made.returncode, made.stderr) == (0, "")
    done = leakage(folder, tmp_path / "data", run=in_new_process)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "human valid: 0 of" in done.stdout and "mouse test: 0 of" in done.stdout


def test_splits_by_hand_leak_and_the_windows_are_counted(folder, tmp_path):
    # human 4,000 to 5,000 is held out; its mouse counterparts 100 bp long train
    human, mouse = tmp_path / "human.bed", tmp_path / "mouse.bed"
    human.write_text("chrA\t0\t3968\ttrain\nchrA\t3968\t5120\tvalid\nchrA\t5120\t20000\ttrain\n")
    mouse.write_text("chrB\t0\t1280\tvalid\nchrB\t1280\t20500\ttrain\n")
    for species, bed in (("human", human), ("mouse", mouse)):
        out = tmp_path / "data"
        assert shard(folder, species, "--contigs", bed, "--out", out).returncode == 0
    done = leakage(folder, tmp_path / "data", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    leaks = {(leak["species"], leak["split"]): leak for leak in found["homology"]}
    # targets 3968-4096 and 4992-5120 hold aligned bases: 4000-4100, 5000-5100
    worst = leaks[("human", "valid")]
    assert (worst["leaking"], worst["windows"], worst["most_bp"]) == (3, 9, 100)
    assert worst["worst"] == "chrA:4992-5120"
    # mouse 0 to 1,280 is human from 20,363 down to 19,083: aligned are human 19,000 to 19,100
    assert (leaks[("mouse", "valid")]["leaking"], leaks[("mouse", "valid")]["most_bp"]) == (1, 17)
    assert found["within"]["human"][0]["seen_bp"] == 32
    enough = leakage(folder, tmp_path / "data", "--min-aligned", "101")
    assert enough.returncode == 0
    assert "human valid: 0 of 9 windows have a homologous training window in mouse" in enough.stdout
    assert "human valid: 2 windows see up to 32 bp of targets of train" in enough.stdout


def test_a_giant_group_ends_with_status_2_and_nothing_written(folder, tmp_path):
    ends = f"{SHIFT} {SHIFT + LENGTH}"
    chain = f"chain 9 chrA {LENGTH} + 0 {LENGTH} chrB {LENGTH + 500} + {ends} 1\n{LENGTH}\n"
    (folder / "all.chain").write_text(chain)
    whole = ["--homology", f"mouse:mouse={tmp_path / 'none'}"]
    done = split(folder, tmp_path / "splits", *whole)
    assert done.returncode == 2 and "cannot read the homology file" in done.stderr
    whole = ["--homology", f"human:mouse={folder / 'all.chain'}", "--block", "500"]
    done = split(folder, tmp_path / "splits", *whole)
    assert done.returncode == 2
    assert "error: " in done.stderr and "Raise --min-aligned, or cut large" in done.stderr
    assert not (tmp_path / "splits").exists()
    done = split(folder, tmp_path / "splits", *whole, "--cut-groups", "2000")
    assert done.returncode == 0 and "the largest held 100.0 % of human" in done.stdout


def test_beds_are_not_replaced_unasked(folder, tmp_path):
    assert split(folder, tmp_path, "--block", "500").returncode == 0
    before = (tmp_path / "mouse.bed").read_text()
    (tmp_path / "human.bed").unlink()
    done = split(folder, tmp_path, "--block", "500", "--seed", "1")
    assert done.returncode == 2 and "mouse.bed exists; add --overwrite" in done.stderr
    assert not (tmp_path / "human.bed").exists()
    assert split(folder, tmp_path, "--block", "500", "--seed", "1", "--overwrite").returncode == 0
    assert (tmp_path / "mouse.bed").read_text() != before


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--genome", "human"], "--genome human: expected NAME=FILE"),
        (["--genome", "human=x.fa", "--genome", "human=y.fa"], "names 'human' twice"),
        (["--genome", "human=none.fa"], "no such FASTA or 2bit file: none.fa"),
        (["--genome", "human=x", "--homology", "human=x"], "expected NAME:NAME=FILE"),
        (["--genome", "human=x", "--homology", "human:rat=x"], "no genome of 'rat'"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    done = run_here(DATA_PREP / "split.py", *arguments, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert not (tmp_path / "out").exists()


def test_leakage_of_what_is_no_dataset(tmp_path):
    done = run_here(DATA_PREP / "leakage.py", tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ")
