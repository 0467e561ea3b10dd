"""Tests prove something only if they fail: every mistake of `planted_faults.py` makes them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from planted_bases_faults import BASES_FAULTS
from planted_evaluation_faults import EVALUATION_FAULTS
from planted_faults import CURVES, TRAINING_FAULTS, Fault
from planted_hub_faults import HUB_FAULTS
from planted_task_faults import TASK_FAULTS
from planted_token_faults import TOKEN_FAULTS

REPO = Path(__file__).parents[1]
FAULTS = TRAINING_FAULTS | EVALUATION_FAULTS | HUB_FAULTS | TASK_FAULTS | TOKEN_FAULTS
FAULTS |= BASES_FAULTS
COPIED = ("spacescale", "tests", "data_prep", "ds_configs", "pyproject.toml")
WITH_LONG = "not slow and not gpu and not slurm"
PASSED, FAILED = 0, 1  # exit statuses of pytest; others are of tests that did not run


@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_the_line_of_a_fault_stands_in_its_file_once(fault):
    assert (REPO / fault.file).read_text(encoding="utf-8").count(fault.old) == 1


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    for name in COPIED:
        if (REPO / name).is_dir():
            shutil.copytree(
                REPO / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(REPO / name, folder)
    return folder


def run(folder: Path, tests: tuple[str, ...]) -> subprocess.CompletedProcess:
    # Without bytecode: that of the file as it was would pass for the changed one's.
    here = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    options = ("-x", "-q", "-p", "no:cacheprovider", "-m", WITH_LONG)
    command = [sys.executable, "-m", "pytest", *options, *tests]
    return subprocess.run(
        command, cwd=folder, env=os.environ | here, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_without_a_fault_the_same_tests_pass(copy):
    every = {fault.tests for fault in FAULTS.values()}
    chosen = {tests for tests in every if "-k" in tests and CURVES not in tests}  # minutes each
    together = {name for tests in every if "-k" not in tests for name in tests}
    for tests in [tuple(sorted(together)), *chosen]:
        found = run(copy, tests)
        assert found.returncode == PASSED, found.stdout


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_a_planted_fault_is_noticed(fault: Fault, copy):
    path = copy / fault.file
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace(fault.old, fault.new), encoding="utf-8")
    try:
        found = run(copy, fault.tests)
    finally:
        path.write_text(before, encoding="utf-8")
    assert found.returncode == FAILED, found.stdout + found.stderr
