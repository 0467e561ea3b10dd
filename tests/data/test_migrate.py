"""Datasets of format version 1 become readable, and only those."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from shard_inputs import small_options, write_inputs

from spacescale.data.migrate import migrate
from spacescale.data.shard_reader import SpeciesData
from spacescale.data.shard_writer import shard_species
from spacescale.errors import UserError

SCRIPT = Path(__file__).parents[2] / "data_prep/migrate.py"
# What the manifest of version 1 had; Report and Sources have grown, too.
FIELDS = (
    "format", "species", "seq_length", "bin_size", "target_length", "stride", "transform",
    "num_windows", "num_tracks", "mean_over", "contigs", "aliases", "sources", "report", "files",
    "created_with",
)  # fmt: skip
REPORT = (
    "dropped_unknown_bases", "contigs_without_tracks", "extra_contigs", "too_short", "unassigned",
    "ambiguous_bases", "saturated_bins", "warnings",
)  # fmt: skip
SOURCES = ("fasta", "targets", "tracks", "split_bed")


@pytest.fixture(scope="module")
def new(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return shard_species(small_options(folder, folder / "out"))


@pytest.fixture
def old(new, tmp_path) -> Path:
    """The same dataset as version 1 wrote it."""
    folder = tmp_path / "datasets" / "tiny"
    shutil.copytree(new, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest = {name: manifest[name] for name in FIELDS} | {"format_version": 1}
    manifest["report"] = {name: manifest["report"][name] for name in REPORT}
    manifest["sources"] = {name: manifest["sources"][name] for name in SOURCES}
    manifest["contigs"] = [
        {name: contig[name] for name in ("name", "length", "offset")}
        for contig in manifest["contigs"]
    ]
    group = json.loads((folder / "zarr.json").read_text())
    group["attributes"]["format_version"] = 1
    (folder / "zarr.json").write_text(json.dumps(group, indent=2))
    content = (folder / "zarr.json").read_bytes()
    manifest["files"]["zarr.json"] = {
        "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_migrated_dataset_is_the_one_that_is_written_today(old, new):
    with pytest.raises(UserError, match=r"version 1, .* reads 2: migrate with .*migrate.py .*tiny"):
        SpeciesData.open(old)
    assert migrate(old)
    data = SpeciesData.open(old)
    data.verify()
    today = SpeciesData.open(new)
    assert data.manifest.split.hash == today.manifest.split.hash
    assert data.manifest.split.method == today.manifest.split.method == "chroms"
    found, expected = contents(old), contents(new)
    found.pop("manifest.json")
    expected.pop("manifest.json")
    assert found == expected
    assert data.manifest.model_copy(
        update={"split": today.manifest.split, "checksum": today.manifest.checksum}
    ) == today.manifest  # fmt: skip
    assert not migrate(old)


def test_a_migration_that_was_killed_is_repeated(old, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("spacescale.data.migrate.save_manifest", stop)
        with pytest.raises(KeyboardInterrupt):
            migrate(old)
    (old / ".manifest.json.new").write_text("half")
    with pytest.raises(UserError, match="migrate with"):
        SpeciesData.open(old)
    assert migrate(old)
    SpeciesData.open(old).verify()


def test_splits_of_old_datasets_are_told_apart(old):
    manifest = json.loads((old / "manifest.json").read_text())
    manifest["report"]["warnings"] = ["no split was given, so test is chrM (6 %)"]
    (old / "manifest.json").write_text(json.dumps(manifest))
    assert migrate(old)
    assert SpeciesData.open(old).manifest.split.method == "held_out"


@pytest.mark.parametrize("name", ["targets/c/1/0/0", "zarr.json", "tracks.tsv"])
def test_damaged_datasets_stay_as_they_are(old, name):
    content = bytearray((old / name).read_bytes())
    content[-3] ^= 1
    (old / name).write_bytes(content)
    before = contents(old)
    with pytest.raises(UserError, match=rf"{name}"):
        migrate(old)
    assert contents(old) == before


def test_a_damaged_manifest_is_no_crash(old):
    path = old / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in ("files", "sources", "species"):
        path.write_text(json.dumps({key: manifest[key] for key in manifest if key != name}))
        before = contents(old)
        with pytest.raises(UserError, match=r"manifest.json is damaged"):
            migrate(old)
        assert contents(old) == before


def test_other_versions_and_folders_are_refused(old, tmp_path):
    manifest = json.loads((old / "manifest.json").read_text())
    (old / "manifest.json").write_text(json.dumps(manifest | {"format_version": 3}))
    with pytest.raises(UserError, match=r"version 3; only version 1 .* upgrade spacescale"):
        migrate(old)
    (old / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="is not the manifest of a spacescale-species dataset"):
        migrate(old)
    with pytest.raises(UserError, match="is no species dataset"):
        migrate(tmp_path)


def test_the_command_takes_a_folder_of_datasets(old, tmp_path):
    def run(folder):
        return subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True)

    assert run(old.parent).stdout == f"{old}: migrated\n"
    assert run(old).stdout == f"{old}: has the current version already\n"
    done = run(tmp_path / "none")
    assert (done.returncode, done.stderr[:6]) == (2, "error:")
