"""Data that are split in another way than those a model was trained on."""

import json
import logging
import shutil

import pytest
from commands import SPECIES, make_data, swap_held_out_moths

from spacescale.checkpoint import layout
from spacescale.checkpoint.convert import convert
from spacescale.checkpoint.found import find_checkpoint
from spacescale.dataset.loader import open_datasets
from spacescale.dataset.manifest import read_manifest, save_manifest
from spacescale.errors import UserError
from spacescale.evals.evaluation import Options, evaluate

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture(scope="module")
def swapped(tmp_path_factory):
    """The same species and tracks; valid and test of moth have changed places."""
    return make_data(tmp_path_factory.mktemp("swapped"), swap_held_out_moths)


@pytest.fixture(scope="module")
def export(alone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "export"
    convert(alone[0], folder)
    return folder


def without_split_hashes(folder):
    """Make a checkpoint or export what an earlier spacescale wrote."""
    for path in folder.rglob("*.json"):
        state = json.loads(path.read_text())
        state.get("trained", state).pop("data_splits", None)
        path.write_text(json.dumps(state))
    for checkpoint in folder.glob("checkpoints/step-*"):
        layout.write_manifest(checkpoint)
    return folder


def test_checkpoints_and_exports_keep_the_split_hashes(alone, export, data):
    expected = {name: d.manifest.split.hash for name, d in open_datasets([data]).items()}
    assert set(expected) == set(SPECIES)
    state = layout.read_state(find_checkpoint(alone[0]))
    trained = json.loads((export / "config.json").read_text())["trained"]
    assert state["data_splits"] == trained["data_splits"] == expected


@pytest.mark.parametrize("kind", ["checkpoint", "export"])
def test_evaluate_refuses_other_splits(alone, export, swapped, tmp_path, kind):
    source = alone[0] if kind == "checkpoint" else export
    message = "moth: its splits are not those .* held-out windows may have been trained on.*--other"
    with pytest.raises(UserError, match=message):
        evaluate(source, [swapped], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_evaluate_scores_other_splits_when_told_to_and_says_so(export, swapped, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        two = [swapped / "moth", swapped / "finch"]
        text = evaluate(export, two, tmp_path, Options(other_split=True))
    assert "moth: other splits than in training: held-out windows may have been" in text
    assert "finch: other splits" not in text and "other splits" in caplog.text
    species = json.loads((tmp_path / "metrics.json").read_text())["species"]
    assert {name: found["splits"] for name, found in species.items()} == {
        "finch": "as trained",
        "moth": "other",
    }


def test_another_data_set_with_the_same_splits_is_scored(export, data, tmp_path, caplog):
    copied = tmp_path / "moth"
    shutil.copytree(data / "moth", copied)
    manifest, _ = read_manifest(copied)
    save_manifest(copied, manifest.model_copy(update={"created_with": {"spacescale": "another"}}))
    evaluate(export, [copied], tmp_path / "out")
    assert "may have been trained on" not in caplog.text


def test_what_an_earlier_spacescale_wrote_warns(alone, export, swapped, tmp_path, caplog):
    old = without_split_hashes(shutil.copytree(export, tmp_path / "export"))
    evaluate(old, [swapped / "moth"], tmp_path / "out")
    assert "its splits may differ" in caplog.text
    run_folder = without_split_hashes(shutil.copytree(alone[0], tmp_path / "run"))
    convert(run_folder, tmp_path / "again")
    trained = json.loads((tmp_path / "again/config.json").read_text())["trained"]
    assert trained["data_splits"] == dict.fromkeys(trained["data_manifests"])
