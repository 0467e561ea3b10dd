"""What launchers announce, and what is made of it."""

import pytest

from spacescale.errors import UserError
from spacescale.parallel.environment import launch_environment

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "GROUP_WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "4"}
DEEPSPEED = {"CROSS_SIZE": "1", "LOCAL_SIZE": "4"}
SLURM = {
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
}
JOINED = {"RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture
def launch(monkeypatch):
    """Set up the surroundings and return WORLD_SIZE as it is then understood."""

    def launched(*parts, **more):
        env = {}
        for part in (*parts, more):
            env |= part
        monkeypatch.setattr("os.environ", env)
        launch_environment()
        return int(env["WORLD_SIZE"])

    return launched


@pytest.mark.parametrize("launcher", [TORCHRUN, DEEPSPEED, SLURM])
def test_as_many_processes_as_the_launcher_started_are_fine(launch, launcher):
    assert launch(launcher, JOINED, WORLD_SIZE="4") == 4


@pytest.mark.parametrize(
    ("launcher", "name"),
    [(TORCHRUN, "LOCAL_WORLD_SIZE"), (DEEPSPEED, "LOCAL_SIZE"), (SLURM, "SLURM_STEP_NUM_TASKS")],
)
def test_another_world_size_than_the_launchers_is_refused(launch, launcher, name):
    with pytest.raises(UserError, match=rf"WORLD_SIZE=2, but .* started 4 processes \({name}\)"):
        launch(launcher, JOINED, WORLD_SIZE="2")


def test_several_machines_may_hold_unequal_numbers_of_processes(launch):
    assert launch(DEEPSPEED | {"CROSS_SIZE": "2"}, JOINED, WORLD_SIZE="6") == 6


def test_srun_alone_needs_only_the_address_of_the_first_node(launch):
    with pytest.raises(UserError, match="without MASTER_ADDR"):
        launch(SLURM)
    assert launch(SLURM, MASTER_ADDR="n1") == 4


def test_a_launcher_under_srun_counts_its_own_processes(launch):
    env = SLURM | {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}
    assert launch(env, TORCHRUN | {"GROUP_WORLD_SIZE": "2"}, JOINED, WORLD_SIZE="8") == 8


def test_plain_python_is_one_process(launch):
    assert launch() == 1
