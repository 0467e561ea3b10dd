"""What launchers announce, and what is made of it."""

import os

import pytest

from spacescale.errors import UserError
from spacescale.parallel.comm import NotMet, gpu_index
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
    assert os.environ["MASTER_PORT"] == "0"  # free when it is opened, not before


# ---- mpirun and srun ----------------------------------------------------------------------------

OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"}


@pytest.mark.parametrize("mpi", [OPEN_MPI, MPICH])
@pytest.mark.parametrize("around", [{}, SLURM | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}])
def test_mpirun_tells_rank_and_size(launch, mpi, around):
    assert launch(around, mpi) == 4
    assert (os.environ["RANK"], os.environ["LOCAL_RANK"]) == ("1", "1")
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("127.0.0.1", "29500")


def test_mpirun_over_several_machines_needs_an_address(launch):
    elsewhere = {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
    with pytest.raises(UserError, match=r"started 4 processes .* without MASTER_ADDR.*unset OMPI_"):
        launch(OPEN_MPI, elsewhere)
    assert launch(OPEN_MPI, elsewhere, MASTER_ADDR="n1") == 4


def test_tasks_of_one_machine_need_no_address(launch):
    assert launch(SLURM, SLURM_STEP_NUM_NODES="1") == 4
    assert os.environ["MASTER_ADDR"] == "127.0.0.1"


def test_an_interactive_shell_of_srun_is_no_task(launch, monkeypatch):
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    with pytest.raises(UserError, match=r"SLURM_STEP_NUM_TASKS=4 .*--pty.*unset SLURM_STEP_NUM_T"):
        launch(SLURM, SLURM_PTY_PORT="1", SLURM_STEP_NUM_NODES="1")


@pytest.mark.parametrize("env", [{"PMIX_RANK": "0"}, {"PMI_RANK": "0", "PMI_SIZE": "2"}])
def test_a_launcher_that_does_not_tell_enough_is_refused_by_name(launch, env):
    name = list(env)[-1]
    with pytest.raises(UserError, match=rf"^{name}=.*not served.*unset {name}"):
        launch(env)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 must be less than WORLD_SIZE=2"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK='one' must be a whole number"),
        (OPEN_MPI | {"RANK": "0", "WORLD_SIZE": "4"}, "RANK=0, but mpirun .* number 1 .OMPI_"),
    ],
)
def test_a_wrong_number_is_named_by_the_rank_that_has_it(launch, env, message):
    with pytest.raises(NotMet, match=message):
        launch(env)


@pytest.mark.parametrize(
    ("local_rank", "visible", "index"),
    [(0, 1, 0), (3, 1, 0), (3, 4, 3)],  # the second: one GPU per task
)
def test_each_process_takes_the_gpu_it_sees(local_rank, visible, index):
    assert gpu_index(local_rank, visible) == index


def test_more_processes_than_gpus_are_refused():
    with pytest.raises(NotMet, match="LOCAL_RANK=2, but 2 GPUs are visible"):
        gpu_index(2, 2)
