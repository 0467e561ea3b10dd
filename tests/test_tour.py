"""The notebook of the documents: it runs, and holds the outputs of one whole run."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from spacescale.checkpoint.weight_files import write_imported
from spacescale.dataset.loader import open_datasets
from spacescale.model.space import Space
from spacescale.overrides import build_config
from spacescale.presets import EMBEDDED_PRESET
from spacescale.space_config import ModelConfig
from spacescale.testing.embedded_data import embedded_data

pytestmark = pytest.mark.long

TOUR = Path(__file__).parents[1] / "docs" / "tour.ipynb"


def read_cells():
    cells = nbformat.read(TOUR, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def write_untrained_export(folder):
    """As the demo's, with fresh weights."""
    tracks = {name: data.tracks for name, data in open_datasets([embedded_data()]).items()}
    assays = {name: tuple(track.assay for track in table) for name, table in tracks.items()}
    values = build_config(EMBEDDED_PRESET, []).model.model_dump() | {"species": assays}
    model = Space(ModelConfig.model_validate(values))
    write_imported(folder, model.state_dict(), model.config, tracks, {"from": "a test"})


def test_the_tour_runs(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    write_untrained_export(tmp_path / "runs" / "demo" / "export")
    notebook = nbformat.read(TOUR, as_version=4)
    resources = {"metadata": {"path": str(tmp_path / "docs")}}
    NotebookClient(notebook, timeout=300, resources=resources).execute()
    kinds = [
        [output.output_type for output in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    # What it shows is of the same kinds as what readers see.
    assert kinds == [[output.output_type for output in cell.outputs] for cell in read_cells()]


def test_the_outputs_are_those_of_one_run_from_the_top():
    cells = read_cells()
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}  # no warnings
    text = "".join(output.get("text", "") for output in outputs)
    assert re.search(r"breaks .* chip_moth_only +-\d", text)
    assert not re.search(r"(/tmp|/home|/work)/", text)
    assert TOUR.stat().st_size < 500_000
