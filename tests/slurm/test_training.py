"""The jobs of slurm/ with the real training process, on a private Slurm of two nodes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from commands import BIN, TINY, make_data
from safetensors.torch import load_file
from training import PAIR, SHORT_STEPS, START_S, Training, losses

pytestmark = pytest.mark.slurm
ONE_NODE, MULTINODE = "slurm/pretrain_8xA40.sh", "slurm/pretrain_multinode.sh"
ENDLESS = "optim.max_steps=100000"
NODES = ("--nodes=2", "--ntasks-per-node=1", "--gres=gpu:1", "--mem=4G")


@pytest.fixture(scope="module")
def undisturbed(slurm, tmp_path_factory) -> Path:
    """The run folder of 100 steps on two ranks."""
    folder = tmp_path_factory.mktemp("undisturbed")
    job = Training(
        slurm, folder, *PAIR, ONE_NODE, "--output=run", *SHORT_STEPS, "optim.max_steps=100"
    )
    job.wait_for_state("COMPLETED", 2 * START_S)
    return job.output


def test_the_whole_way_of_the_script_as_it_is(slurm, tmp_path):
    """8 ranks, nothing of the script changed: a warning, the queue again, and on to the end."""
    few = ["optim.max_steps=4", "run.valid_every=4", "run.save_every=4"]
    job = Training(slurm, tmp_path, ONE_NODE, "--output=run", *TINY, *few)
    job.wait_for_step(1)
    job.ask("scancel", "--batch", "--signal=USR1", job.id)
    job.wait_for_state("COMPLETED", 2 * START_S)
    assert job.state()["Restarts"] == "1"
    assert "SIGUSR1: saved step" in job.text()
    assert "saved and stopped; it goes back into the queue" in job.text()
    assert list(losses(job.output)) == [1, 2, 3, 4]
    assert (job.output / "DONE").exists()
    assert json.loads((job.output / "config.json").read_text())["world_size"] == 8


def test_five_warnings(slurm, tmp_path, undisturbed):
    """The losses are those of a run that was never stopped."""
    words = [ONE_NODE, "--output=run", *SHORT_STEPS, "optim.max_steps=100"]
    job = Training(slurm, tmp_path, *PAIR, *words)
    for cycle in range(5):
        job.wait_for_step(job.step() + 2)
        job.ask("scancel", "--batch", "--signal=USR1", job.id)
        job.wait_for_restart(cycle + 1)
    job.wait_for_state("COMPLETED", 2 * START_S)
    assert job.text().count("SIGUSR1: saved step") == 5
    assert losses(job.output) == losses(undisturbed)


def test_a_time_limit(slurm, tmp_path):
    """Slurm itself sends the warning."""
    words = ["--signal=B:USR1@60", "--time=3", ONE_NODE, "--output=run", *SHORT_STEPS, ENDLESS]
    job = Training(slurm, tmp_path, *PAIR, *words)
    job.wait_for_restart(1)
    before = job.step()
    assert "SIGUSR1: saved step" in job.text()
    job.wait_for_step(before + 1)
    job.ask("scancel", job.id)


def test_preemption(slurm, tmp_path):
    """A job of higher priority needs the nodes: the ranks save in the grace time, go on later."""
    job = Training(slurm, tmp_path, *PAIR, ONE_NODE, "--output=run", *SHORT_STEPS, ENDLESS)
    job.wait_for_step(2)
    urgent = job.ask(
        *("sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--exclusive"),
        *("--output=/dev/null", "--wrap=sleep 3"),
    )
    job.wait_for_restart(1)
    before = job.step()
    assert "SIGTERM: saved step" in job.text()
    assert urgent in job.others()
    job.wait_for_step(before + 1)
    job.ask("scancel", job.id)


def test_scancel(slurm, tmp_path):
    """Saves, and stays away."""
    job = Training(slurm, tmp_path, *PAIR, ONE_NODE, "--output=run", *SHORT_STEPS, ENDLESS)
    job.wait_for_step(2)
    job.ask("scancel", job.id)
    job.wait_for_state("CANCELLED", START_S)
    job.wait_for(lambda: "cancelled" in job.text(), START_S)
    assert f"saved step {job.step()}" in job.text()
    assert job.state()["Restarts"] == "0"


def test_a_killed_rank_is_tried_again_from_the_last_checkpoint(slurm, tmp_path, undisturbed):
    words = [ONE_NODE, "--output=run", *SHORT_STEPS, "optim.max_steps=100", "run.save_every=10"]
    job = Training(slurm, tmp_path, *PAIR, *words, SPACESCALE_RETRY_PAUSE_S="1")
    job.wait_for(lambda: (job.output / "checkpoints/latest").exists(), START_S)
    os.kill(job.pids()[1], signal.SIGKILL)
    job.wait_for_state("COMPLETED", 2 * START_S)
    assert job.state()["Restarts"] == "1"
    assert "error on rank 1: its process is gone" in job.text()
    assert "failed, retry 1 of 3" in job.text()
    assert losses(job.output) == losses(undisturbed)


def test_an_error_of_the_user_is_not_tried_again(slurm, tmp_path):
    job = Training(slurm, tmp_path, *PAIR, ONE_NODE, "--output=run", *SHORT_STEPS, "optim.lr=-1")
    job.wait_for_state("FAILED", START_S)
    assert job.state()["Restarts"] == "0"
    assert "optim.lr" in job.text()


def test_damaged_data_is_not_tried_again_though_steps_were_gained(slurm, tmp_path):
    shards = make_data(tmp_path / "data")
    words = [ONE_NODE, "--output=run", *SHORT_STEPS, "run.save_every=1", ENDLESS]
    job = Training(slurm, tmp_path, *PAIR, *words, "--data", str(shards))
    job.wait_for(lambda: (job.output / "checkpoints/latest").exists(), START_S)
    chunks = [path for path in shards.glob("*/targets/**/*") if path.is_file() and not path.suffix]
    assert chunks
    for path in chunks:
        path.write_bytes(path.read_bytes()[:-20])
    job.wait_for_state("FAILED", START_S)
    assert job.state()["Restarts"] == "0"
    assert "failed by an error that a person must cure" in job.text()


def test_two_nodes(slurm, tmp_path, undisturbed):
    """The same losses as on one; the node of rank 1 is lost, and the job goes on."""
    words = [MULTINODE, "--output=run", *SHORT_STEPS, "optim.max_steps=100", "run.save_every=10"]
    job = Training(
        slurm, tmp_path, *NODES, *words, "parallel.ep_size=1", SPACESCALE_RETRY_PAUSE_S="1"
    )
    job.wait_for(lambda: (job.output / "checkpoints/latest").exists(), START_S)
    assert job.state()["NodeList"] == "n[1-2]"
    lose_node(slurm, job, rank=1)
    job.wait_for_restart(1)
    helper = Path(__file__).with_name("private_slurm.sh")
    subprocess.run([helper, "node", Path(slurm["SLURM_CONF"]).parent, "n2"], check=True, env=slurm)
    job.wait_for_state("COMPLETED", 2 * START_S)
    assert losses(job.output) == losses(undisturbed)


def lose_node(slurm, job: Training, rank: int) -> None:
    """Kill all that ran on n2: the daemon, its helper of the step, the rank."""
    daemon = int((Path(slurm["SLURM_CONF"]).parent / "slurmd.n2.pid").read_text())
    killed = job.pids()[rank]
    stepd = int(Path(f"/proc/{killed}/stat").read_text().rpartition(")")[2].split()[1])
    assert "slurmstepd" in Path(f"/proc/{stepd}/comm").read_text()
    for pid in (daemon, stepd, killed):
        os.kill(pid, signal.SIGKILL)


def test_convert(slurm, tmp_path):
    """After the training: --dependency, on the newest checkpoint."""
    words = [ONE_NODE, "--output=run", *SHORT_STEPS, "optim.max_steps=3"]
    job = Training(slurm, tmp_path, *PAIR, *words)
    after = f"--dependency=afterok:{job.id}"
    other = Training(slurm, tmp_path, after, "slurm/convert.sh", "run")
    other.wait_for_state("COMPLETED", 2 * START_S)
    assert job.state()["JobState"] == "COMPLETED"
    assert load_file(tmp_path / "run/exports/step-00000003/model.safetensors")
    done = subprocess.run([BIN / "spacescale", "info", tmp_path / "run/exports/step-00000003"])
    assert done.returncode == 0


def test_convert_of_nothing(slurm, tmp_path):
    job = Training(slurm, tmp_path, "slurm/convert.sh", "nothing")
    job.wait_for_state("FAILED", START_S)
    assert job.text() == "error: nothing: no checkpoint to convert\n"


def test_the_grace_time(slurm, tmp_path):
    """A save that is too slow for it is said once."""
    words = [ONE_NODE, "--output=run", *SHORT_STEPS, "optim.max_steps=2", "run.save_every=1"]
    job = Training(slurm, tmp_path, *PAIR, *words, SPACESCALE_GRACE_S="0")
    job.wait_for_state("FAILED", START_S)
    assert "SPACESCALE_GRACE_S='0': must be a number of seconds above 0" in job.text()
