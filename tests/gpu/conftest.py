"""The gpu tier: skipped where there is no card.

GPU_TESTS_ON_CPU=1 runs it on the CPU nevertheless, to test the tests: what only a card can show is
then left out. GPU_TESTS_JSON=FILE keeps how each test ended, and what it measured, as they end.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from gpu_models import ON_CPU

CASES = pytest.StashKey[list]()


def pytest_configure(config):
    config.stash[CASES] = []


def pytest_collection_modifyitems(items):
    here = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    for item in here:
        item.add_marker(pytest.mark.gpu)
        if not torch.cuda.is_available() and not ON_CPU:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    path = os.environ.get("GPU_TESTS_JSON")
    if path and (report.when == "call" or not report.passed):
        case = {"case": item.name, "s": call.duration} | dict(report.user_properties)
        if not report.passed:
            message = str(call.excinfo.value).strip() if call.excinfo else report.outcome
            case[report.outcome] = (message.splitlines() or [""])[0][:300]
        cases = item.config.stash[CASES]
        cases.append(case)
        Path(path).write_text(json.dumps(cases, indent=1) + "\n")
    return report


@pytest.fixture(autouse=True)
def fresh_memory():
    """No test inherits another's memory or random numbers."""
    torch.manual_seed(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
