"""Commands as users start them, on the CPU, and a tiny data set and run to start them on."""

import contextlib
import io
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

from spacescale.metrics.writer import read_metrics
from spacescale.overrides import build_config
from spacescale.parallel.comm import free_port
from spacescale.prepare.options import DatasetOptions
from spacescale.prepare.stages import make_dataset
from spacescale.presets import EMBEDDED_PRESET
from spacescale.splits.options import SplitOptions
from spacescale.testing.simulated_genomes import write_simulated_genomes

REPO = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SCRIPT, DEEPSPEED_JSON = Path("spacescale/pretrain.py"), Path("ds_configs/zero2_moe.json")
SPACESCALE, DATA_PREP = BIN / "spacescale", REPO / "data_prep"
MANY_RUNS = REPO / "tests/commands/many_runs.py"
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
        # DeepSpeed decorates an optimiser that is not used here, which imports the whole compiler:
        # a quarter of a short run.
        "TORCHDYNAMO_DISABLE": "1",
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


def run_here(script, *words, cwd=REPO, **changes):
    """Run a Python script in this process, as `run` does in a new one, without the imports' time.

    What is logged is not in stderr: it goes to pytest.
    """
    stdout, stderr = io.StringIO(), io.StringIO()
    on_term = signal.getsignal(signal.SIGTERM)
    with (
        mock.patch.object(sys, "argv", [str(word) for word in (script, *words)]),
        mock.patch.dict(os.environ, environment(**changes), clear=True),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            runpy.run_path(str(script), run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code or 0
        finally:
            signal.signal(signal.SIGTERM, on_term)
    return subprocess.CompletedProcess(sys.argv, status, stdout.getvalue(), stderr.getvalue())


def arguments(data, output, *more):
    """Arguments of pretrain.py for the tiny run."""
    return ["--deepspeed", DEEPSPEED_JSON, "--data", data, "--output", output, *TINY, *more]


def deepspeed_launcher(processes=2):
    """The beginning of a command under DeepSpeed's launcher, at a port of its own."""
    return [BIN / "deepspeed", "--num_gpus", processes, "--master_port", free_port()]


def deepspeed_command(*rest):
    """The launcher's command for two processes."""
    return [*deepspeed_launcher(), SCRIPT, *rest]


def start_pair(*rest, of_rank=([], []), script=SCRIPT):
    """Two processes of one run, started without a launcher: rank → Popen.

    of_rank: arguments of one rank alone.
    """
    shared = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, (script, *rest, *of_rank[rank]))],
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


def swap_held_out_moths(species):
    """A change for make_data: valid and test of moth have changed places."""
    if species.name == "moth":
        other = {"valid": "test", "test": "valid"}
        rows = [line.split("\t") for line in species.contigs.read_text().splitlines()]
        rows = [[*row[:3], other.get(row[3], row[3])] for row in rows]
        species.contigs.write_text("".join("\t".join(row) + "\n" for row in rows))


def by_step(output):
    """metrics.jsonl as step → all that was logged at it."""
    found = {}
    for record in read_metrics(output / "metrics.jsonl"):
        found.setdefault(record["step"], {}).update(record)
    return found
