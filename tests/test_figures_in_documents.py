"""Figures that the documents state, computed again where that is cheap."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from spacescale.cli import main
from spacescale.overrides import build_config
from spacescale.planning.parameters import count_parameters
from spacescale.planning.species import with_species
from spacescale.presets import PRESETS

REPO = Path(__file__).parents[1]
UNITS = {"M": 1e6, "B": 1e9}


def text_of(document):
    return (REPO / document).read_text(encoding="utf-8")


def rows_of(document, heading):
    """Cells of the rows of the table whose header line holds `heading`."""
    lines = text_of(document).splitlines()
    (start,) = [i for i, line in enumerate(lines) if line.startswith("|") and heading in line]
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def plan(capsys, monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["spacescale", *arguments, "--json"])
    assert main() == 0
    return json.loads(capsys.readouterr().out)


def test_what_fits_where(capsys, monkeypatch):
    """Each row of the table has its command below it."""
    rows = rows_of("ds_configs/README.md", "windows/s, all GPUs")
    commands = re.findall(r"^spacescale (plan .*)$", text_of("ds_configs/README.md"), re.MULTILINE)
    assert len(rows) == len(commands) >= 5
    for (_, preset, configuration, _, _, gib, windows_per_s), command in zip(
        rows, commands, strict=True
    ):
        found = plan(capsys, monkeypatch, shlex.split(command))
        assert found["preset"] == preset.strip("`")
        written = json.loads(text_of(f"ds_configs/{configuration.strip('`')}"))
        assert written["zero_optimization"]["stage"] == found["layout"]["zero_stage"]
        sizes = {name: size / 2**30 for name, size in found["bytes_per_gpu"].items()}
        if "offload" in configuration:
            on_gpu, on_host = map(float, re.findall(r"[\d.]+", gib))
            assert on_gpu == pytest.approx(sizes["total"] - sizes["optimiser"], rel=0.01)
            assert on_host == pytest.approx(sizes["optimiser"], rel=0.01)
            continue
        assert float(gib) == pytest.approx(sizes["total"], rel=0.01)
        assert float(windows_per_s.replace(",", "")) == pytest.approx(
            found["windows_per_s"], rel=0.02
        )


def test_sizes_of_the_presets():
    stated = {}
    for names, sizes, *_ in rows_of("README.md", "preset | parameters"):
        for place, name in enumerate(names.split(", ")):
            stated[name.strip("`")] = sizes.split(", ")[place if ", " in sizes else 0]
    assert stated.keys() == PRESETS.keys()
    for name in PRESETS.keys() - {"space_demo", "space_tiny"}:  # theirs are of other tracks
        number, unit = stated[name].split()
        count = count_parameters(with_species(build_config(name, []), []).model).total
        assert float(number) * UNITS[unit] == pytest.approx(count, rel=0.02), name


def test_tables_of_predicted_scaling(monkeypatch):
    monkeypatch.syspath_prepend(str(REPO / "benchmarks"))
    import scaling

    stated = text_of("docs/scaling.md").splitlines()
    models = scaling.models()
    for table in (
        scaling.weak_table(models),
        scaling.stage_table(models[0]),
        scaling.expert_table(models),
    ):
        for line in list(table)[2:]:
            assert line in stated


def test_sizes_of_the_public_sets():
    for _, windows, tracks, scratch, stored in rows_of("docs/human_mouse.md", "stored, about"):
        count = sum(int(part.replace(",", "")) for part in windows.split(", "))
        targets = count * 896 * int(tracks.replace(",", "")) * 2
        assert float(scratch.split()[0]) == pytest.approx(targets / 1e9, rel=0.01)
        assert float(stored.split()[0]) == pytest.approx(targets / 1e9 * 5.50 / 9.52, rel=0.01)
