"""What the model card tells of a run, its evaluation and its files."""

import json
import re
import shutil
from pathlib import Path

import pytest

from spacescale.files import sha256
from spacescale.hub import export
from spacescale.hub.export import convert_for_hub

ASSAY = {"species": "finch", "assay": "all", "tracks": 5, "pearson_log1p": 0.5,
         "interval": [0.4, 0.6], "baselines": {"GC": {"value": 0.125}}}  # fmt: skip
EVALUATED = {
    "model": "step-00000020", "split": "test", "definition": "Pearson per track",
    "species": {"finch": {"windows": 66, "contigs": {"chr3": 60, "chrX": 6}, "bins": 7392}},
    "assays": [ASSAY],
}  # fmt: skip
RECORDS = (
    {"step": 5, "train/loss": 0.9},
    {"step": 10, "train/loss": 0.25, "valid/loss": 0.5, "valid/pearson_log1p": 0.75},
    {"step": 15, "train/loss": None},
    {"step": 20, "valid/loss": 0.625, "valid/pearson_log1p": 0.7},
    {"step": 25, "train/loss": 0.375},
)
FIGURES = ("tracks_finch.png", "pearson_per_assay.png", "loss_curves.png")
TRAINED = {
    "step": 20,
    "metrics": {"step": 20, "valid/loss": 0.625},
    "data_manifests": {"finch": "a" * 64, "perch": "b" * 64},
    "data_splits": {"finch": "c" * 64},
    "versions": {"torch": "2.13.0"},
}


def rewrite(folder, **trained):
    config = json.loads((folder / "config.json").read_text())
    config["trained"] |= trained
    (folder / "config.json").write_text(json.dumps(config))


def evaluate(folder, **changes):
    """Leave what an evaluation leaves."""
    figures = folder / "evaluation" / "test" / "figures"
    figures.mkdir(parents=True)
    (figures.parent / "metrics.json").write_text(json.dumps(EVALUATED | changes))
    for name in FIGURES:
        (figures / name).write_bytes(name.encode())


@pytest.fixture
def run(exported, tmp_path, monkeypatch):
    """A run folder with a checkpoint that stands for the tiny model, as trained for 20 steps."""

    def write_export(checkpoint, folder):
        assert checkpoint.name == "step-00000020"
        shutil.copytree(exported, folder, dirs_exist_ok=True)
        rewrite(folder, **TRAINED)

    monkeypatch.setattr(export, "write_export", write_export)
    (tmp_path / "run" / "checkpoints" / "step-00000020").mkdir(parents=True)
    lines = "".join(json.dumps(record) + "\n" for record in RECORDS)
    (tmp_path / "run" / "metrics.jsonl").write_text(lines)
    return tmp_path / "run"


def converted(run, out):
    convert_for_hub(run / "checkpoints" / "step-00000020", out)
    return (out / "README.md").read_text()


def test_losses_come_from_the_runs_own_records(run, tmp_path):
    card = converted(run, tmp_path / "hub")
    assert "20 optimiser steps" in card
    assert "At step 20, whose weights these are: validation loss 0.6250.\n" in card
    assert (
        "| | last | best |\n|---|---|---|\n"
        "| training loss | 0.3750 (step 25) | 0.2500 (step 10) |\n"
        "| validation loss | 0.6250 (step 20) | 0.5000 (step 10) |\n"
        "| validation Pearson log1p | 0.7000 (step 20) | 0.7500 (step 10) |\n\n"
    ) in card
    convert_for_hub(tmp_path / "hub", tmp_path / "again")  # there is no run any more
    assert "| training loss | 0.3750" in (tmp_path / "again" / "README.md").read_text()


def test_weights_that_training_began_with_are_told_without_their_path(run, tmp_path, monkeypatch):
    assert "It began with" not in converted(run, tmp_path / "anew")
    old = {"path": "/home/me/old", "digest": None, "step": None, "seq_length": None,
           "reads_anywhere": False, "data_splits": {}, "data_manifests": {"moth": None},
           }  # fmt: skip
    began = {**old, "step": 10, "data_manifests": {"finch": "d" * 64}, "began_with": old}
    monkeypatch.setitem(TRAINED, "began_with", began)
    card = converted(run, tmp_path / "hub")
    assert (
        "It began with weights of step 10, of finch (dddddddddddd), which began with weights of "
        "an unknown step, of moth (data not known).\n"
    ) in card
    assert "/home" not in card


def test_scores_of_another_step_are_not_called_this_ones(run, tmp_path, monkeypatch):
    monkeypatch.setitem(TRAINED, "metrics", {"step": 10, "valid/loss": 0.5})
    (run / "metrics.jsonl").unlink()
    card = converted(run, tmp_path / "hub")
    assert "whose weights these are" not in card and "| last |" not in card


def test_figures_of_the_evaluation_are_copied_and_shown(run, tmp_path):
    evaluate(run)
    card = converted(run, tmp_path / "hub")
    shown = re.findall(r"^!\[([a-z0-9 ]+)\]\((.+)\)$", card, re.MULTILINE)
    assert shown == [
        ("loss curves", "figures/loss_curves.png"),
        ("pearson per assay", "figures/pearson_per_assay.png"),
        ("tracks finch", "figures/tracks_finch.png"),
    ]
    for _, path in shown:
        assert (tmp_path / "hub" / path).read_bytes() == Path(path).name.encode()
    assert card.index("loss_curves.png") < card.index("## How good") < card.index("tracks_finch")
    assert "| finch | all | 5 | 0.500 | 0.400 to 0.600 | 0.125 |" in card
    assert "Split: test (finch 66 windows, 7,392 bins, on chr3, chrX)." in card
    assert "value: 0.5000, verified: false" in card.partition("\n---\n")[0]


def test_an_evaluation_of_another_checkpoint_is_not_shown(run, tmp_path):
    evaluate(run, model="step-00000010")
    card = converted(run, tmp_path / "hub")
    assert "It came without an evaluation" in card and "![" not in card
    assert not (tmp_path / "hub" / "figures").exists()


def test_checksums_are_those_of_the_files(run, tmp_path):
    evaluate(run)
    card = converted(run, tmp_path / "hub")
    found = dict(re.findall(r"^\| `([^`]+)` \| `([0-9a-f]{64})` \|$", card, re.MULTILINE))
    assert found == {name: sha256(tmp_path / "hub" / name) for name in found}
    assert set(found) == {
        "model.safetensors", "proof.safetensors", "config.json", "modeling_space.py",
        "configuration_space.py", "tracks/finch.tsv", "tracks/perch.tsv",
    }  # fmt: skip
    assert f"| finch | `{'a' * 64}` | `{'c' * 64}` |" in card


def test_what_else_lies_in_an_export_stays_there(exported, tmp_path):
    source = shutil.copytree(exported, tmp_path / "export")
    evaluate(source)
    for name in (".env", "notes.md", "figures/older.png"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("HF_TOKEN=secret")
    convert_for_hub(source, tmp_path / "hub")
    names = {p.relative_to(tmp_path / "hub").as_posix() for p in (tmp_path / "hub").rglob("*.*")}
    assert names == {
        "README.md", "config.json", "configuration_space.py", "modeling_space.py",
        "model.safetensors", "proof.safetensors", "tracks/finch.tsv", "tracks/perch.tsv",
        *(f"figures/{name}" for name in FIGURES),
    }  # fmt: skip
