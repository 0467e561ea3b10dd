"""Manifests, pointers and locks of a run folder."""

import json
import os
from pathlib import Path

import pytest

from spacescale.checkpoint import layout
from spacescale.errors import UserError
from spacescale.files import write_text


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "run/checkpoints/step-00000003"
    (folder / "tracks").mkdir(parents=True)
    (folder / "spacescale.json").write_text('{"step": 3}')
    (folder / "weights.pt").write_bytes(bytes(range(200)))
    (folder / "tracks/ant.tsv").write_text("index\n")
    layout.write_manifest(folder)
    write_text(folder.parent / "latest", folder.name)
    return folder


def test_an_untouched_checkpoint_verifies_and_its_manifest_lists_every_file(checkpoint):
    layout.verify(checkpoint)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    assert sorted(manifest["files"]) == ["spacescale.json", "tracks/ant.tsv", "weights.pt"]
    assert manifest["files"]["weights.pt"]["bytes"] == 200


def flip(path):
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda c: flip(c / "weights.pt"), "weights.pt: damaged"),
        (lambda c: os.truncate(c / "weights.pt", 199), "weights.pt: 199 bytes, expected 200"),
        (lambda c: (c / "tracks/ant.tsv").unlink(), "ant.tsv: missing from the checkpoint"),
        (lambda c: (c / "manifest.json").unlink(), "not a complete checkpoint"),
        (lambda c: rewrite(c / "manifest.json", format_version=1), "version 1; expected .* 4"),
        (lambda c: rewrite(c / "manifest.json", format="zip"), "format 'zip'"),
    ],
)
def test_a_damaged_checkpoint_is_named(checkpoint, damage, message):
    damage(checkpoint)
    with pytest.raises(UserError, match=message):
        layout.verify(checkpoint)


def test_a_run_its_checkpoints_folder_and_a_checkpoint_all_lead_to_the_checkpoint(checkpoint):
    run = checkpoint.parents[1]
    for path in (run, run / "checkpoints", checkpoint):
        assert layout.find_checkpoint(path) == checkpoint
        assert layout.find_checkpoint(path, "best") == checkpoint, "the latest stands in"


def test_the_pointer_chooses_among_checkpoints(checkpoint):
    other = checkpoint.with_name("step-00000006")
    other.mkdir()
    (checkpoint.parent / "latest").write_text(f"{other.name}\n")
    (checkpoint.parent / "best").write_text(checkpoint.name)
    run = checkpoint.parents[1]
    assert layout.find_checkpoint(run) == other
    assert layout.find_checkpoint(run, "best") == checkpoint


def test_unfinished_checkpoints_are_never_found(tmp_path):
    (tmp_path / "checkpoints" / f"step-00000003{layout.PARTIAL}").mkdir(parents=True)
    assert layout.find_checkpoint(tmp_path) is None
    assert layout.find_checkpoint(tmp_path / "nowhere") is None


def test_a_pointer_to_a_missing_folder_is_named(checkpoint):
    (checkpoint.parent / "latest").write_text("step-00000099")
    with pytest.raises(UserError, match="latest: names 'step-00000099', which does not exist"):
        layout.find_checkpoint(checkpoint.parents[1])


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


def test_only_one_run_at_a_time_holds_a_folder(tmp_path):
    held = layout.lock_run(tmp_path / "new")
    with pytest.raises(UserError, match="new: in use by another run"):
        layout.lock_run(tmp_path / "new")
    held.close()
    layout.lock_run(tmp_path / "new").close()
    assert not layout.holds_run(tmp_path / "new"), "a lock alone is no run"


def test_reading_the_state_of_something_else_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a spacescale checkpoint"):
        layout.read_state(tmp_path)
