"""Starting: waiting ranks obey, mpirun is served."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from commands import BIN, DEEPSPEED_JSON, REPO, SCRIPT, arguments, environment, run

from spacescale.parallel.comm import free_port

pytestmark = pytest.mark.long

MPIRUN = shutil.which("mpirun", path=os.pathsep.join((str(BIN), os.environ["PATH"])))
SOON_S = 4  # a busy machine; alone it takes less than 0.1 s


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_waiting_rank_says_for_whom_and_obeys(tmp_path, number):
    shared = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    command = [sys.executable, SCRIPT, "--deepspeed", DEEPSPEED_JSON, "--output", tmp_path / "run"]
    process = subprocess.Popen(
        [str(part) for part in command],
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPO,
        env=environment(RANK=0, LOCAL_RANK=0, **shared),
    )
    try:
        said = ""
        while "waiting for" not in said:
            said = process.stderr.readline()
            assert said, "ended before it said for whom it waits"
        assert f"1 of 2 processes at 127.0.0.1:{shared['MASTER_PORT']}: rank 1" in said
        start = time.monotonic()
        process.send_signal(number)
        rest = process.communicate(timeout=30)[1]
        assert time.monotonic() - start < SOON_S
        assert process.returncode == 128 + number
        assert rest == f"{number.name}: ended before training began\n"
    finally:
        process.kill()
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(MPIRUN is None, reason="no mpirun: pip install mpich")
def test_mpirun_starts_the_ranks_of_one_run(data, tmp_path):
    output = tmp_path / "run"
    rest = arguments(data, output, "optim.max_steps=2", "parallel.ep_size=1")
    done = run(MPIRUN, "-n", "2", sys.executable, SCRIPT, *rest)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((output / "config.json").read_text())["world_size"] == 2
    assert (output / "DONE").exists()
