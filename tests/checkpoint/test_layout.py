"""Manifests, states, pointers and locks of a run folder."""

import json
import os
from pathlib import Path

import pytest
from made_up_checkpoints import flip, seal, state_of

from spacescale.checkpoint import layout
from spacescale.errors import UserError
from spacescale.files import write_text


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "run/checkpoints/step-00000003"
    (folder / "tracks").mkdir(parents=True)
    (folder / "weights.pt").write_bytes(bytes(range(200)))
    (folder / "tracks/ant.tsv").write_text("index\n")
    seal(folder, state_of(3))
    write_text(folder.parent / "latest", folder.name)
    return folder


def test_an_untouched_checkpoint_verifies_and_its_manifest_lists_every_file(checkpoint):
    layout.verify(checkpoint)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    assert sorted(manifest["files"]) == ["spacescale.json", "tracks/ant.tsv", "weights.pt"]
    assert manifest["files"]["weights.pt"]["bytes"] == 200


def test_species_of_imported_weights_have_no_manifest(tmp_path):
    folder = tmp_path / "run/checkpoints/step-00000003"
    folder.mkdir(parents=True)
    seal(folder, state_of(3) | {"data_manifests": {"wren": None, "moth": "f00"}})
    assert layout.read_state(folder)["data_manifests"] == {"wren": None, "moth": "f00"}


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda c: flip(c / "weights.pt", 100), "weights.pt: damaged"),
        (lambda c: os.truncate(c / "weights.pt", 199), "weights.pt: 199 bytes, expected 200"),
        (lambda c: (c / "tracks/ant.tsv").unlink(), "ant.tsv: missing from the checkpoint"),
        (lambda c: (c / "manifest.json").unlink(), "not a complete checkpoint"),
        (lambda c: rewrite(c / "manifest.json", format_version=1), "version 1; expected .* 4"),
        (lambda c: rewrite(c / "manifest.json", format="zip"), "format 'zip'"),
        (lambda c: rewrite(c / "manifest.json", format_version=2), "damaged: version 2, was 4"),
        (lambda c: rewrite(c / "manifest.json", files={}), "does not list spacescale.json"),
        (lambda c: rewrite(c / "manifest.json", files=[]), "manifest.json: damaged: files="),
        (lambda c: rewrite(c / "manifest.json", files={"a": {"bytes": 1}}), "a.sha256 is missing"),
        (lambda c: (c / "manifest.json").write_bytes(b"\xff"), "manifest.json: damaged: not valid"),
        (lambda c: (c / "manifest.json").write_text("[" * 100_000), "manifest.json: damaged: not"),
        (lambda c: (c / "manifest.json").write_text('{"a": 1, "a": 2}'), "a name stands twice"),
        (lambda c: (c / "manifest.json").write_text('{"a": ' + "9" * 5000 + "}"), "json: damaged"),
        (lambda c: (c / "state-00009.safetensors").touch(), "state-00009.safetensors: not listed"),
        (lambda c: c.rename(c.with_name("step-00000004")), "not a complete checkpoint"),
    ],
)
def test_a_damaged_checkpoint_is_named(checkpoint, damage, message):
    damage(checkpoint)
    with pytest.raises(UserError, match=message):
        layout.verify(checkpoint)


def test_a_crash_while_a_pointer_is_replaced_leaves_the_old_one(checkpoint, monkeypatch):
    pointer = checkpoint.parent / "latest"

    def crash(self, target):
        assert Path(self).read_text() == "step-00000009", "written in full before it is moved"
        raise OSError("power cut")

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(OSError, match="power cut"):
        write_text(pointer, "step-00000009")
    assert pointer.read_text() == checkpoint.name
    monkeypatch.undo()
    write_text(pointer, "step-00000009")
    assert pointer.read_text() == "step-00000009"
    assert not list(checkpoint.parent.glob("*.tmp"))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"step": "3"}, "spacescale.json: step='3': .*integer"),
        ({"step": 10**30}, "spacescale.json: step=10"),
        ({"step": 4}, "spacescale.json: of step 4, which is not what its folder says"),
        ({"metrics": [1]}, "spacescale.json: metrics="),
        ({"layout": {}}, "spacescale.json: layout.world_size is missing"),
        ({"lineage": [{"id": 7, "step": 0}]}, "spacescale.json: lineage.0.id=7"),
        ({"config": {"model": {"dim": -1}}}, "spacescale.json: config: model.dim=-1"),
        ({"config": {"colour": 1}}, "spacescale.json: config: colour=1"),
    ],
)
def test_a_state_that_is_whole_but_not_ours_is_named(checkpoint, changes, message):
    seal(checkpoint, state_of(3) | changes)
    with pytest.raises(UserError, match=message) as error:
        layout.read_config(checkpoint, layout.read_state(checkpoint))
    assert "\n" not in str(error.value)


def test_reading_the_state_of_something_else_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a spacescale checkpoint"):
        layout.read_state(tmp_path)
