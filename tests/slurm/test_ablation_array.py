"""`spacescale ablate --slurm`: the arrays it submits make all runs and end with the tables."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from commands import DEEPSPEED_JSON, REPO, TINY, environment, make_data

pytestmark = pytest.mark.slurm
PRESET, *SMALL = TINY


def test_arrays_make_all_runs_and_the_tables(slurm, tmp_path):
    """Rates are chosen by one array, the rest waits for it, the tables for that."""
    out, data = tmp_path / "out", make_data(tmp_path)
    command = [sys.executable, "-m", "spacescale.cli", "ablate", "--arms", "dense_encoder", PRESET]
    command += ["--data", str(data), "--out", str(out), "--deepspeed", str(REPO / DEEPSPEED_JSON)]
    command += ["--seeds", "2", "--lr", "1e-3", "2e-3", *SMALL, "--slurm"]
    env = environment(SLURM_CONF=slurm["SLURM_CONF"], PYTHONPATH=REPO)
    env["ABLATE_SBATCH"] = "--time=10 --cpus-per-task=1"
    script = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert script.returncode == 0, script.stderr
    told = subprocess.run(
        ["bash"], input=script.stdout, cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    tables = told.stdout.split()[-1]

    def logs():
        return "\n".join(path.read_text() for path in sorted(tmp_path.glob("slurm-*.out")))

    deadline = time.monotonic() + 400
    while not (out / "results.json").exists():
        queue = subprocess.run(["squeue"], env=env, capture_output=True, text=True).stdout
        assert time.monotonic() < deadline and tables in queue, f"{queue}\n{logs()}"
        time.sleep(1)
    (arm,) = json.loads((out / "results.json").read_text())["arms"]
    assert arm["runs"].keys() == {"0", "1"} and arm["tried"].keys() == {"0.001", "0.002"}
    assert len(list(tmp_path.glob("slurm-*.out"))) == 2 + 2 + 1, logs()
