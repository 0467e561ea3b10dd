"""The one call for a GPU: it goes on past failures, keeps what it has, and says so at the end."""

import json
import subprocess
import sys

import pytest
from commands import BIN, REPO, environment
from packaging.requirements import Requirement

BENCHMARKS = REPO / "benchmarks"
CARD = {"python_version": "3.11"}  # whose wheels are carried
SCRIPT = """
import json, sys, time
part, path = sys.argv[1], sys.argv[2].removeprefix("--json=")
json.dump([{"case": "first", "ms": 1.5}], open(path, "w"))
if part == "late":
    time.sleep(60)
sys.exit(part == "wrong")
"""


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu

    return gpu


def test_it_goes_on_past_failures_and_keeps_what_each_part_had(gpu, monkeypatch, tmp_path, capfd):
    script = tmp_path / "part.py"
    script.write_text(SCRIPT)
    parts = [gpu.Part(name, str(script), 1.5) for name in ("wrong", "late", "right")]
    monkeypatch.setattr(gpu, "PARTS", parts)
    monkeypatch.setattr(gpu, "CPU_PATIENCE", 1)
    monkeypatch.setattr(sys, "argv", ["gpu.sh", "--out", str(tmp_path / "out")])
    assert gpu.main() == 1
    found = json.loads((tmp_path / "out/gpu.json").read_text())
    assert {name: part["state"] for name, part in found.items()} == {
        "wrong": "failed: ended with 1",
        "late": "failed: not done after 2 s",
        "right": "ok",
    }
    assert all(part["cases"] == [{"case": "first", "ms": 1.5}] for part in found.values())
    table = (tmp_path / "out/gpu.md").read_text()
    assert "| late | first | ms 1.5 |" in table and table in capfd.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["gpu.json", "gpu.md"]


def test_what_is_carried_is_what_is_installed_here():
    """The versions that tests run with; a wheel that is missing would cost a loan of a card."""
    pins = {}
    for name in ("constraints.txt", "benchmarks/gpu_wheels.txt"):
        lines = (REPO / name).read_text().splitlines()
        pinned = [Requirement(line) for line in lines if "==" in line]
        pins[name] = {
            each.name: str(each.specifier)
            for each in pinned
            if each.marker is None or each.marker.evaluate(CARD)
        }
    carried = pins["benchmarks/gpu_wheels.txt"]
    shared = pins["constraints.txt"].keys() & carried.keys()
    assert {"deepspeed", "numpy", "pydantic", "pytest", "tensorboard", "zarr"} <= shared
    assert all(pins["constraints.txt"][name] == carried[name] for name in shared)


@pytest.mark.slow
def test_the_whole_call_runs_to_its_end_at_toy_sizes(tmp_path):
    done = subprocess.run(
        [BENCHMARKS / "gpu.sh", "--out", tmp_path],
        env=environment(PYTHON=BIN / "python"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert len(found) == 13 and all(part["cases"] for part in found.values())
