"""data_prep/genome.py as users run it; what other commands say of what it makes."""

import re
import signal
import sys
from unittest import mock

import pytest
from commands import DATA_PREP, REPO, run, run_here
from small_genomes import write_fasta

GENOME = DATA_PREP / "genome.py"
SPLITS = ["--valid-chroms", "chrII", "--test-chroms", "chrIII"]


@pytest.fixture
def folder(tmp_path):
    inputs = tmp_path / "user files"
    write_fasta(inputs / "genome.fa")
    return inputs


def make(folder, *arguments, fasta="genome.fa"):
    words = ["--species", "tiny", "--fasta", fasta, "--out", "out", *arguments]
    return run_here(GENOME, *words, cwd=folder)


def test_a_good_run_says_what_it_made(folder):
    words = ["--species", "tiny", "--fasta", "genome.fa", "--out", "out", *SPLITS]
    done = run(sys.executable, GENOME, *words, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "tiny: sequence of genome.fa, no tracks" in done.stdout
    assert "train 3.4 kb, valid 2.0 kb, test 1.5 kb; 4 contigs" in done.stdout
    assert re.search(r"repeats +\d+\.\d % of the bases, in lower case", done.stdout)
    assert "in 7 files" in done.stdout
    assert [path.name for path in (folder / "out").iterdir()] == ["tiny"]
    assert sorted(path.name for path in folder.iterdir()) == ["genome.fa", "out"]


def test_a_plan_writes_nothing(folder):
    done = make(folder, *SPLITS, "--plan")
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing was written" in done.stdout and not (folder / "out").exists()


@pytest.mark.parametrize(
    "arguments, fasta, message",
    [
        (SPLITS, "none.fa", "error: no such FASTA or 2bit file: none.fa"),
        (["--test-chroms", "II"], "genome.fa",
         "error: --test-chroms: the FASTA has no contig 'II'; did you mean chrII?; --aliases auto"),
        (["--valid-chroms", "chrI", "--test-chroms", "chrI"], "genome.fa",
         "error: contig chrI is in two splits, valid and test"),
        (["--all-train", *SPLITS], "genome.fa", "error: --all-train holds nothing out"),
        (["--contigs", "no.bed"], "genome.fa", "no.bed"),
        (["--contigs", "no.bed", *SPLITS], "genome.fa", "error: give the splits one way"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_with_status_2_and_leaves_nothing(folder, arguments, fasta, message):
    done = make(folder, *arguments, fasta=fasta)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert not (folder / "out").exists()


def test_a_stop_says_how_to_go_on(folder):
    with mock.patch("spacescale.prepare.genome_dataset.publish", side_effect=KeyboardInterrupt):
        done = make(folder, *SPLITS)
    assert done.returncode == 130
    assert done.stderr.startswith("interrupted: the same command continues, or delete out/.tiny.")
    done = make(folder, *SPLITS)
    assert done.returncode == 0 and "continuing: the genome is written" in done.stdout
    with mock.patch("spacescale.prepare.genome_dataset.publish") as publish:
        publish.side_effect = lambda *_: signal.raise_signal(signal.SIGTERM)
        done = make(folder, *SPLITS, "--overwrite")
    assert done.returncode == 143 and "the same command continues" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        [REPO / "spacescale/pretrain.py", "--deepspeed", REPO / "ds_configs/zero2_moe.json",
         "--output", "runs/x", "--data"],
        ["-m", "spacescale.cli", "recommend"],
        [DATA_PREP / "export_webdataset.py", "--out", "tar"],
        [DATA_PREP / "leakage.py"],
    ],
)  # fmt: skip
def test_what_looks_at_profiles_refuses_a_genome_in_a_line_that_says_what_it_is_for(
    folder, command
):
    make(folder, *SPLITS)
    done = run(sys.executable, *command, folder / "out/tiny", cwd=folder)
    assert done.returncode == 2
    line = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "species 'tiny' has no tracks: it is a genome alone, to be trained on as bases" in line
    assert "Traceback" not in done.stderr
