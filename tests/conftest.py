"""One thread for each test process and what it starts, and a private Slurm."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Such small work only waits for more. Read by torch and NumPy when they are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
SLURM = ("slurmctld", "slurmd", "munged", "sbatch", "srun")


@pytest.fixture(scope="session")
def slurm() -> Iterator[dict[str, str]]:
    """Environment of a running private Slurm."""
    path = os.pathsep.join((os.environ["PATH"], "/usr/sbin"))
    missing = [program for program in SLURM if shutil.which(program, path=path) is None]
    if missing:
        pytest.skip(f"Slurm is not installed (no {', '.join(missing)})")
    helper = Path(__file__).with_name("slurm") / "private_slurm.sh"
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder:
        try:
            subprocess.run([helper, "start", folder], check=True)
            yield {
                **{k: v for k, v in os.environ.items() if not k.startswith(("MASTER_", "SLURM_"))},
                "SLURM_CONF": f"{folder}/slurm.conf",
            }
        finally:
            subprocess.run([helper, "stop", folder], check=True)
