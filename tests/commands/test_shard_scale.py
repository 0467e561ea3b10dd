"""data_prep/shard.py in many processes: on one machine, over MPI, in Slurm's arrays, and killed."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyBigWig
import pytest
from commands import BIN, DATA_PREP, REPO, run_here

pytestmark = pytest.mark.long

SCRIPT = DATA_PREP / "shard.py"
NUM_TRACKS = 24
LENGTHS = {"chrI": 40_000, "chrII": 20_000, "chrIII": 20_000}
MPIRUN = shutil.which("mpirun", path=os.pathsep.join((str(BIN), os.environ["PATH"])))
needs_mpi = pytest.mark.skipif(MPIRUN is None, reason="no mpirun: pip install mpich")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """24 tracks over three contigs, chrIII without coverage in the last."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    letters = np.array(list("ACGT"))
    records = (f">{name}\n{''.join(rng.choice(letters, bp))}\n" for name, bp in LENGTHS.items())
    (folder / "genome.fa").write_text("".join(records))
    rows = ["index\tidentifier\tfile"]
    for index in range(NUM_TRACKS):
        with pyBigWig.open(str(folder / f"{index}.bw"), "w") as file:
            file.addHeader(list(LENGTHS.items()))
            for name, bp in LENGTHS.items():
                file.addEntries(name, 0, values=rng.gamma(1, 2, bp // 10), span=10, step=10)
        rows.append(f"{index}\ttrack{index}\t{index}.bw")
    (folder / "targets.txt").write_text("\n".join(rows) + "\n")
    return folder


def arguments(inputs, out, *more) -> list[str]:
    given = ["--species", "tiny", "--fasta", inputs / "genome.fa",
             "--targets", inputs / "targets.txt", "--out", out, "--seq-length", "640",
             "--bin-size", "16", "--target-length", "32", "--windows-per-shard", "8",
             "--valid-chroms", "chrII", "--test-chroms", "chrIII"]  # fmt: skip
    return [str(word) for word in (*given, *more)]


def run(inputs, out, *more, launcher=(), **environment):
    command = [*launcher, sys.executable, str(SCRIPT), *arguments(inputs, out, *more)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=240
    )


def go_on(inputs, out):
    """The same command in this process: to the end, where a run was stopped."""
    return run_here(SCRIPT, *arguments(inputs, out))


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory) -> dict[str, bytes]:
    """The dataset as one undisturbed process writes it."""
    out = tmp_path_factory.mktemp("whole")
    done = run(inputs, out)
    assert done.returncode == 0, done.stderr
    return contents(out / "tiny")


def markers(out: Path) -> int:
    """How many tracks and shards a run has finished."""
    return sum(1 for path in (out / ".tiny.partial").glob("*s/*.json"))


def start(inputs, out, *more, launcher=()) -> subprocess.Popen:
    command = [*launcher, sys.executable, str(SCRIPT), *arguments(inputs, out, *more)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
    )


def heed_ctrl_c():
    """Shells start what shall run in the background, these tests perhaps, deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(condition, process=None, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.002)


def workers_of(process: subprocess.Popen) -> list[int]:
    """The processes below a run, without launchers and resource trackers, oldest first."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    below, found = [process.pid], []
    while below:
        below = [child for parent in below for child in children.get(parent, [])]
        found += [pid for pid in below if is_worker(pid)]
    return sorted(found)


def is_worker(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False
    return command.startswith(sys.executable) and (
        "spawn_main" in command or SCRIPT.name in command
    )


def test_a_run_killed_again_and_again_ends_like_one_that_was_not(inputs, whole, tmp_path):
    """SIGKILL to the parent alone: its workers end by themselves, nothing shows until the end."""
    total = NUM_TRACKS + 20
    for finished in (1, NUM_TRACKS - 1, NUM_TRACKS + 9):
        process = start(inputs, tmp_path, "--workers", "2")
        wait_for(lambda finished=finished: markers(tmp_path) >= finished, process)
        workers = workers_of(process)
        process.kill()
        process.communicate()
        wait_for(lambda workers=workers: not any(map(is_worker, workers)), seconds=60)
        assert [path.name for path in tmp_path.iterdir()] == [".tiny.partial"]
        assert markers(tmp_path) < total
    done = run(inputs, tmp_path, "--workers", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"continuing: {NUM_TRACKS} of {NUM_TRACKS} tracks are read" in done.stdout
    assert re.search(r"continuing: (9|1\d) of 20 shards are written", done.stdout)
    assert contents(tmp_path / "tiny") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    ("number", "status", "launcher"),
    [
        pytest.param(signal.SIGTERM, 143, [], id="TERM"),
        pytest.param(signal.SIGINT, 130, [], id="INT"),
        pytest.param(signal.SIGTERM, 143, [MPIRUN, "-n", "3"], id="TERM-mpi", marks=needs_mpi),
    ],
)
def test_a_stopped_run_says_how_to_go_on(inputs, whole, tmp_path, number, status, launcher):
    more = [] if launcher else ["--workers", "2"]
    process = start(inputs, tmp_path, *more, launcher=launcher)
    wait_for(lambda: markers(tmp_path) >= 3, process)
    workers = workers_of(process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as Ctrl-C does
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    message = f"interrupted: the same command continues, or delete {tmp_path / '.tiny.partial'}\n"
    assert (errors[: len(message)] if launcher else errors) == message
    assert process.returncode != 0 if launcher else process.returncode == status
    assert workers
    wait_for(lambda: not any(map(is_worker, workers)))  # mpirun ends a moment before they do
    assert go_on(inputs, tmp_path).returncode == 0
    assert contents(tmp_path / "tiny") == whole


@pytest.mark.parametrize("launcher", [[], pytest.param([MPIRUN, "-n", "3"], marks=needs_mpi)])
def test_a_worker_that_dies_ends_the_run_which_can_go_on(inputs, whole, tmp_path, launcher):
    more = [] if launcher else ["--workers", "2"]
    process = start(inputs, tmp_path, *more, launcher=launcher)
    wait_for(lambda: markers(tmp_path) >= 3, process)
    workers = workers_of(process)
    os.kill(workers[-1], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    if not launcher:
        assert process.returncode == 2
        assert errors.startswith("error: a worker process died; was it ended for lack of memory?")
    wait_for(lambda: not any(map(is_worker, workers)))
    assert 3 <= markers(tmp_path) < NUM_TRACKS + 20
    assert go_on(inputs, tmp_path).returncode == 0
    assert contents(tmp_path / "tiny") == whole


def test_a_second_run_at_the_same_time_is_refused(inputs, whole, tmp_path):
    first = start(inputs, tmp_path)
    wait_for(lambda: markers(tmp_path) >= 1, first)
    first.send_signal(signal.SIGSTOP)
    second = go_on(inputs, tmp_path)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 2
    assert "another run is writing this dataset" in second.stderr
    first.communicate(timeout=120)
    assert first.returncode == 0
    assert contents(tmp_path / "tiny") == whole


def test_a_worker_that_raises_ends_the_run_with_one_message(inputs, tmp_path):
    damaged = tmp_path / "in"
    shutil.copytree(inputs, damaged)
    with pyBigWig.open(str(damaged / "7.bw"), "w") as file:
        file.addHeader(list(LENGTHS.items()))
        file.addEntries("chrI", 0, values=[1.0, float("inf")] * 2000, span=10, step=10)
    launchers = [[], [MPIRUN, "-n", "2"]] if MPIRUN else [[]]
    for launcher in launchers:
        more = [] if launcher else ["--workers", "2"]
        done = run(damaged, tmp_path / "out", *more, launcher=launcher)
        assert done.returncode == 2
        errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert len(errors) == 1 and "7.bw has infinite coverage at chrI:" in errors[0]
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()


def test_a_plan_writes_nothing_and_its_figures_hold(inputs, whole, tmp_path):
    done = run_here(SCRIPT, *arguments(inputs, tmp_path / "out", "--plan"))
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "out").exists()
    assert re.search(r"windows +train 78, valid 39, test 39", done.stdout)
    assert re.search(r"shards +20 of 8 windows", done.stdout)
    raw, stored = re.search(
        r"([\d.]+) KiB as float16, about ([\d.]+) KiB stored", done.stdout
    ).groups()
    assert float(raw) == pytest.approx(156 * 32 * NUM_TRACKS * 2 / 1024, abs=0.1)
    actual = sum(len(found) for name, found in whole.items() if name.startswith("targets/c/"))
    assert float(stored) == pytest.approx(actual / 1024, rel=0.15)
    assert "from 8 tracks in 16 windows; nothing was written" in done.stdout


@pytest.mark.slow
def test_memory_stays_bounded_for_5313_tracks(inputs, tmp_path):
    """Shards of 32 windows of 896 bins, the largest a user is told to make."""
    rows = [f"{index}\ttrack{index}\t{index % NUM_TRACKS}.bw" for index in range(5313)]
    table = inputs / "many.txt"
    table.write_text("\n".join(["index\tidentifier\tfile", *rows]) + "\n")
    process = start(inputs, tmp_path, "--targets", table, "--workers", "2", "--bin-size", "1",
                    "--target-length", "896", "--seq-length", "1024",
                    "--windows-per-shard", "32")  # fmt: skip
    peaks: dict[int, int] = {}
    while process.poll() is None:
        for pid in [process.pid, *workers_of(process)]:
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                if found := re.search(r"VmHWM:\s+(\d+) kB", status):
                    peaks[pid] = int(found[1]) * 1024
        time.sleep(0.05)
    assert process.returncode == 0, process.communicate()
    assert len(peaks) >= 3
    assert 100 * 2**20 < max(peaks.values()) < 2 * 2**30


@needs_mpi
def test_mpi_writes_the_same_bytes(inputs, whole, tmp_path):
    done = run(inputs, tmp_path, launcher=[MPIRUN, "-n", "3"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("next:") == 1
    assert contents(tmp_path / "tiny") == whole


@needs_mpi
def test_mpi_prints_an_error_once(inputs, tmp_path):
    done = run(inputs, tmp_path, "--workers", "2", launcher=[MPIRUN, "-n", "2"])
    assert done.returncode == 2
    assert done.stderr.count("error: under mpirun its processes do the work") == 1
    assert run(inputs, tmp_path, "--part", "4/3", launcher=[MPIRUN, "-n", "2"]).returncode == 2


def test_processes_that_mpi_does_not_join_are_refused(inputs, tmp_path):
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "mpi4py.py").write_text("raise ImportError('no mpi4py here')\n")
    step = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}
    done = run(inputs, tmp_path / "out", **step, PYTHONPATH=str(shadow))
    assert done.returncode == 2
    assert "SLURM_STEP_NUM_TASKS=4), but MPI is not to be had" in done.stderr
    assert "--workers" in done.stderr
    if MPIRUN:
        done = run(inputs, tmp_path / "out", **step)
        assert done.returncode == 2
        assert "SLURM_STEP_NUM_TASKS=4), but MPI knows of 1" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--part", "0/3"], "'0/3' is not I/N with 1 <= I <= N"),
        (["--part", "1/3"], "--part goes with --stage tracks or --stage shards"),
        (["--tracks", "@none.txt"], "cannot read the list of tracks none.txt"),
        (["--tracks", "track1,99"], "has no track '99'"),
        (["--stage", "finish"], "run --stage prepare first"),
        (["--codec", "gzip"], "invalid choice: 'gzip'"),
        (["--windows-per-shard", "0"], "windows_per_shard 0 must be at least 1"),
    ],
)
def test_bad_arguments(inputs, tmp_path, more, message):
    done = run_here(SCRIPT, *arguments(inputs, tmp_path / "out", *more))
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_tracks_from_a_file(inputs, tmp_path):
    (tmp_path / "some.txt").write_text("track3\n\n1\n")
    done = run_here(SCRIPT, *arguments(inputs, tmp_path, "--tracks", f"@{tmp_path / 'some.txt'}"))
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "tiny/tracks.tsv").read_text().splitlines()
    assert [line.split("\t")[1] for line in table] == ["identifier", "track1", "track3"]


class TestSlurmArray:
    """slurm/shard_array.sh on a private Slurm."""

    def submit(self, slurm, folder, *words) -> str:
        done = subprocess.run(
            [REPO / "slurm/shard_array.sh", *words], cwd=folder, env=slurm, text=True,
            capture_output=True, check=True,
        )  # fmt: skip
        assert re.fullmatch(
            r"submitted: prepare \d+, tracks \d+, shards \d+, finish \d+\n", done.stdout
        )
        return done.stdout.split()[-1]

    def state(self, slurm, job) -> str:
        done = subprocess.run(
            ["scontrol", "show", "job", job], env=slurm, text=True, capture_output=True
        )
        return done.stdout.partition("JobState=")[2].partition(" ")[0]

    def wait_for_end(self, slurm, job, folder) -> str:
        end = time.monotonic() + 180
        while (state := self.state(slurm, job)) in ("PENDING", "RUNNING", "COMPLETING"):
            logs = "".join(path.read_text() for path in folder.glob("slurm-*.out"))
            assert time.monotonic() < end, logs
            time.sleep(0.2)
        return state

    @pytest.fixture
    def project(self, tmp_path) -> Path:
        """A folder that looks like the project's, with a virtual environment."""
        (tmp_path / "data_prep").symlink_to(REPO / "data_prep")
        (tmp_path / "my venv/bin").mkdir(parents=True)
        activate = f"PATH={BIN}:$PATH\n"
        (tmp_path / "my venv/bin/activate").write_text(activate)
        return tmp_path

    def test_four_steps_write_the_same_bytes(self, slurm, inputs, whole, project):
        small = "--cpus-per-task=1 --mem-per-cpu=1G --time=10"
        slurm = {**slurm, "SPACESCALE_VENV": "my venv", "SHARD_SBATCH": small}
        out = project / "out put"
        job = self.submit(slurm, project, "3", *arguments(inputs, out))
        assert self.wait_for_end(slurm, job, project) == "COMPLETED"
        assert contents(out / "tiny") == whole
        assert [path.name for path in out.iterdir()] == ["tiny"]

    def test_a_step_that_fails_ends_those_that_wait_for_it(self, slurm, inputs, project):
        slurm = {**slurm, "SPACESCALE_VENV": "my venv"}
        job = self.submit(slurm, project, "2", *arguments(project, project / "out"))
        assert self.wait_for_end(slurm, job, project) == "CANCELLED"
        logs = "".join(path.read_text() for path in project.glob("slurm-*.out"))
        assert "error: cannot read the targets table" in logs

    @pytest.mark.parametrize("words", [(), ("many",), ("0",)])
    def test_the_number_of_parts_is_needed(self, words):
        done = subprocess.run(
            [REPO / "slurm/shard_array.sh", *words], capture_output=True, text=True
        )
        assert done.returncode == 2
        assert "the first argument must be the number of parts" in done.stderr
