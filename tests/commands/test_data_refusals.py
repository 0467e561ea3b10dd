"""Bad inputs and bad places, as the data commands answer them; and where all others are tested.

The list has 32 kinds of bad input. Each has a test that carries its number:

| numbers | input | tests |
|---|---|---|
| 1 to 14, 18, 19 | FASTA | genome/test_bad_inputs.py |
| 15 to 17 | places that the genome does not hold | genome/test_bad_inputs.py |
| 20 to 30 | BigWig | genome/test_bad_inputs.py |
| 31, 32 | BED of splits or windows | splits/test_bad_beds.py |
| beyond the list | any bytes for FASTA, 2bit, BED, tracks, tables | genome/test_fuzz.py |
| | TFRecord, HDF5 | prepare/test_import_fuzz.py, prepare/test_import_*.py |
| | damaged datasets | verify/test_verify.py, dataset/test_tar_targets.py, test_rank_failures.py |
| | killed runs, full disks while sharding | test_shard_scale.py, prepare/test_stages.py |
| | shards and configuration that do not fit a run | test_pretrain_refusals.py |
| | one of each kind through the command | test_shard_command.py |

Here is what only a command can show: options that would have no effect, splits nobody reads,
and disks that are full or not to be written.
"""

import re
import shlex
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pyBigWig
import pytest
from commands import DATA_PREP, REPO, run_here

LENGTHS = {"chr1": 1000, "chr2": 1000, "chr3": 1000}
SPLITS = ["--valid-chroms", "chr2", "--test-chroms", "chr3"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user's files")
    rng = np.random.default_rng(0)
    letters = np.array(list("ACGT"))
    records = (f">{name}\n{''.join(rng.choice(letters, bp))}\n" for name, bp in LENGTHS.items())
    (folder / "genome.fa").write_text("".join(records))
    with pyBigWig.open(str(folder / "a.bw"), "w") as file:
        file.addHeader(list(LENGTHS.items()))
        for name, bp in LENGTHS.items():
            file.addEntries(name, 0, values=rng.gamma(1, 2, bp), span=1, step=1)
    (folder / "targets.txt").write_text("index\tidentifier\tfile\n0\ta\ta.bw\n")
    (folder / "targets.xlsx").write_bytes(b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml")
    whole = "chr1\t0\t1000\ttrain\nchr2\t0\t1000\tvalid\n"
    (folder / "slip.bed").write_text(whole + "chr3\t0\t1000\ttset\n")
    (folder / "other.bed").write_text(whole + "chr3\t0\t1000\tfold3\n")
    (folder / "header.bed").write_text("chrom\tstart\tend\tsplit\n" + whole)
    (folder / "taken").write_text("")
    with h5py.File(folder / "set_train.h5", "w") as file:
        file["sequences"] = np.eye(4, dtype=bool)[rng.integers(0, 4, (2, 64))]
        file["targets"] = np.ones((2, 8, 1), np.float32)
    return folder


def words(folder, out):
    """The words of a shard.py command, without the splits."""
    given = ["--species", "tiny", "--fasta", folder / "genome.fa", "--targets",
             folder / "targets.txt", "--out", out, "--seq-length", "192", "--bin-size", "16",
             "--target-length", "8"]  # fmt: skip
    return [str(word) for word in given]


BAD = {
    "a split misspelled": (["--contigs", "slip.bed"], "slip.bed: there is a split 'tset'; did you"),
    "a header line": (["--contigs", "header.bed"], "header.bed:1: .*a header line. begin it with"),
    "a share without blocks": (
        [*SPLITS, "--test-share", "0.2"],
        "test_share 0.2 is for --random-blocks BP",
    ),
    "a seed without blocks": ([*SPLITS, "--split-seed", "3"], "split_seed 3 is for --random-bl"),
    "a spreadsheet": (
        [*SPLITS, "--targets", "targets.xlsx"],
        "targets.xlsx is a workbook.*tab sep",
    ),
    "no mask there": ([*SPLITS, "--gaps", "none.bed"], "cannot read the BED file none.bed: No "),
    "a file for a folder": ([*SPLITS, "--out", "taken"], "cannot make the folder taken: File ex"),
    "an option misspelled": ([*SPLITS, "--strid", "64"], "unrecognized arguments: --strid 64"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_with_status_2_and_nothing_left(files, tmp_path, case):
    more, message = BAD[case]
    before = sorted(files.iterdir())
    done = run_here(DATA_PREP / "shard.py", *words(files, tmp_path / "out"), *more, cwd=files)
    assert done.returncode == 2
    assert re.search(rf"error: .*{message}", done.stderr.splitlines()[-1]), done.stderr
    assert sorted(files.iterdir()) == before
    assert not (tmp_path / "out").exists()


def test_splits_that_nothing_reads_are_warned_of(files, tmp_path):
    arguments = [*words(files, tmp_path / "out"), "--contigs", files / "other.bed"]
    done = run_here(DATA_PREP / "shard.py", *arguments)
    assert done.returncode == 0, done.stderr
    told = done.stdout
    assert "train 7, valid 7, fold3 7" in told
    assert "warning: no window is called test: nothing to evaluate on" in told
    assert "is called valid" not in told
    # The line to go on with works in a shell, whatever the folder is called.
    assert f"--data {shlex.quote(str(tmp_path / 'out/tiny'))}" in told


def commands(files, data):
    """A command of each script that writes; --out is still to be added."""
    table = ["--targets", files / "targets.txt"]
    return {
        "shard.py": [*words(files, "")[:4], *table, "--seq-length", "192", "--bin-size", "16",
                     "--target-length", "8", *SPLITS],
        "import_hdf5.py": [files / "set_train.h5", "--species", "tiny", *table, "--no-windows",
                           "--bin-size", "8"],
        "export_webdataset.py": [data / "finch"],
        "split.py": ["--genome", f"tiny={files / 'genome.fa'}", "--block", "100"],
    }  # fmt: skip


def run_on_disk(files, data, script, place, options):
    """Run a script that writes to `place`, a new disk in memory that is mounted for it alone.

    Its standard output ends with an empty line and the names of all that is left there.
    """
    if shutil.which("unshare") is None:
        pytest.skip("no unshare: a disk cannot be mounted for one process")
    command = [sys.executable, f"data_prep/{script}", *commands(files, data)[script]]
    line = shlex.join(map(str, [*command, "--out", place]))
    mount = f"mount -t tmpfs -o {options} none {place}"
    inside = f"{mount} || exit 77; {line}; status=$?; echo; ls -A {place}; exit $status"
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", inside],
        capture_output=True, text=True, cwd=REPO, timeout=120,
    )  # fmt: skip
    if done.returncode == 77 or "unshare: " in done.stderr:
        pytest.skip(f"this system lets no user mount a disk: {done.stderr.strip()}")
    return done


@pytest.mark.parametrize(
    "script", ["shard.py", "import_hdf5.py", "export_webdataset.py", "split.py"]
)
def test_a_disk_that_cannot_be_written_is_named(files, data, tmp_path, script):
    place = tmp_path / "disk"
    place.mkdir()
    done = run_on_disk(files, data, script, place, "ro")
    assert done.returncode == 2, done.stderr
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: cannot ") and error.count(str(place)) == 1
    assert "Read-only file system" in error
    assert "Traceback" not in done.stderr


FULL = {
    "export_webdataset.py": "size=64k",
    "split.py": "nr_inodes=1",  # the folder itself
}


@pytest.mark.parametrize("script", FULL)
def test_a_full_disk_is_said_and_nothing_left(files, data, tmp_path, script):
    place = tmp_path / "disk"
    place.mkdir()
    done = run_on_disk(files, data, script, place, FULL[script])
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "No space left on device" in done.stderr and str(place) in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.endswith("\n\n") or done.stdout == "\n"


def test_an_import_that_filled_the_disk_can_go_on(files, data, tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    done = run_on_disk(files, data, "import_hdf5.py", place, "size=28k")
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert f"error: {place}: No space left on device; make room and run" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.endswith("\n\n.tiny.partial\n")
