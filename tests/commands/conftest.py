"""A tiny data set and the runs on it that several tests look at; commands start as users start
them, on the CPU."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from spacescale.config import EMBEDDED_PRESET, build_config
from spacescale.parallel.comm import free_port
from spacescale.prepare.options import DatasetOptions
from spacescale.prepare.stages import make_dataset
from spacescale.splits.options import SplitOptions
from spacescale.testing.simulated_genomes import write_simulated_genomes

REPO = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SCRIPT, DEEPSPEED_JSON = Path("spacescale/pretrain.py"), Path("ds_configs/zero2_moe.json")
SLURM = ("slurmctld", "slurmd", "munged", "sbatch", "srun")
SPECIES = ("finch", "perch", "moth")
TINY = [
    f"--preset={EMBEDDED_PRESET}",
    "model.dim=48",
    "model.dim_divisible_by=8",
    "model.depth=1",
    "model.heads=2",
    "model.attn_dim_key=8",
    "model.tracks_num_experts=4",
    "data.micro_batch_size=2",
    "optim.max_steps=6",
    "optim.warmup_steps=2",
    "run.log_every=1",
    "run.valid_every=3",
    "run.save_every=3",
    "run.valid_windows=8",  # all of them
]


def environment(**changes):
    """The surroundings of a command: the CPU, one thread, no launcher's variables."""
    launchers = ("RANK", "LOCAL_", "WORLD_SIZE", "MASTER_", "SLURM_", "CUDA_VISIBLE")
    env = {name: value for name, value in os.environ.items() if not name.startswith(launchers)}
    fixed = {
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "PATH": f"{BIN}{os.pathsep}{env['PATH']}",
    }
    return env | fixed | {name: str(value) for name, value in changes.items()}


def run(*command, cwd=REPO, timeout=240, **changes):
    """Run a command to its end: returncode, stdout, stderr. None of its processes outlives it."""
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment(**changes),
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def arguments(data, output, *more):
    """Arguments of pretrain.py for the tiny run."""
    return ["--deepspeed", DEEPSPEED_JSON, "--data", data, "--output", output, *TINY, *more]


def deepspeed_command(*rest):
    """The launcher's command for two processes."""
    return [BIN / "deepspeed", "--num_gpus", "2", "--master_port", free_port(), SCRIPT, *rest]


def start_pair(*rest, of_rank=([], [])):
    """Two processes of one run, started without a launcher: rank → Popen.

    of_rank: arguments of one rank alone.
    """
    shared = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *map(str, rest), *of_rank[rank]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=REPO,
            env=environment(RANK=rank, LOCAL_RANK=rank, **shared),
        )
        for rank in range(2)
    ]


def make_data(folder, change=lambda species: None, with_missing=()):
    """Shard small simulated genomes into folder/shards; `change` may edit their files first.

    with_missing: species whose targets are NaN where nothing was measured.
    """
    model = build_config(EMBEDDED_PRESET, []).model
    for species in write_simulated_genomes(folder / "genomes", scale=0.12):
        change(species)
        options = DatasetOptions(
            species=species.name,
            fasta=species.fasta,
            targets=species.targets,
            out=folder / "shards",
            splits=SplitOptions(contigs=species.contigs),
            seq_length=model.seq_length,
            bin_size=model.bin_size,
            target_length=model.target_length,
            missing="nan" if species.name in with_missing else "zero",
        )
        make_dataset(options)
    return folder / "shards"


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Three tiny species; tests must not change them."""
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def finished(data, tmp_path_factory):
    """The tiny run, of 6 steps on 2 processes under the deepspeed launcher: (folder, process)."""
    output = tmp_path_factory.mktemp("finished") / "run"
    return output, run(*deepspeed_command(*arguments(data, output)))


@pytest.fixture(scope="session")
def alone(data, tmp_path_factory):
    """The tiny run of 3 steps in one process under plain python: (folder, process)."""
    output = tmp_path_factory.mktemp("alone") / "run"
    more = ["optim.max_steps=3"]
    return output, run(sys.executable, SCRIPT, *arguments(data, output, *more))


@pytest.fixture(scope="session")
def slurm() -> Iterator[dict[str, str]]:
    """Environment of a running private Slurm."""
    path = os.pathsep.join((os.environ["PATH"], "/usr/sbin"))
    missing = [program for program in SLURM if shutil.which(program, path=path) is None]
    if missing:
        pytest.skip(f"Slurm is not installed (no {', '.join(missing)})")
    helper = Path(__file__).with_name("private_slurm.sh")
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder:
        try:
            subprocess.run([helper, "start", folder], check=True)
            yield {
                **{k: v for k, v in os.environ.items() if not k.startswith(("MASTER_", "SLURM_"))},
                "SLURM_CONF": f"{folder}/slurm.conf",
            }
        finally:
            subprocess.run([helper, "stop", folder], check=True)
