import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from commands import DATA_PREP, run, run_here
from small_datasets import (
    LENGTHS,
    small_genome,
    small_targets,
    small_windows,
    track_means,
    write_small_dataset,
)

from spacescale.dataset.codecs import codec_warning_ignored
from spacescale.dataset.folder import list_files
from spacescale.dataset.manifest import read_manifest, save_manifest
from spacescale.dataset.schema import Contig, Source, Sources, Split
from spacescale.errors import UserError
from spacescale.genome.intervals import Interval, split_hash
from spacescale.prepare.tar_export import export_webdataset
from spacescale.verify.check import verify, verify_species
from spacescale.verify.findings import Finding

VERIFY = DATA_PREP / "verify.py"


@pytest.fixture(scope="module")
def zarr_form(tmp_path_factory):
    return write_small_dataset(tmp_path_factory.mktemp("zarr") / "tiny")


@pytest.fixture(scope="module")
def tar_form(zarr_form, tmp_path_factory):
    target = tmp_path_factory.mktemp("tar") / "tiny"
    return export_webdataset(zarr_form, target, windows_per_shard=11)


@pytest.fixture(params=["zarr", "webdataset"])
def copy(request, zarr_form, tar_form, tmp_path):
    source = zarr_form if request.param == "zarr" else tar_form
    return shutil.copytree(source, tmp_path / "tiny")


def errors(folder: Path) -> list[Finding]:
    return [finding for finding in verify_species(folder) if finding.severity == "error"]


def texts(findings: list[Finding]) -> list[str]:
    return [str(finding) for finding in findings]


def shard_of(folder: Path, number: int) -> Path:
    form = read_manifest(folder)[0].storage.format
    names = {"zarr": f"targets/c/{number}/0/0", "webdataset": f"shards/targets-{number:06d}.tar"}
    return folder / names[form]


def test_sound_datasets_have_no_findings(copy):
    assert verify(copy) == {copy: []}


@pytest.mark.long
def test_of_200_flipped_bits_all_are_found_and_named(copy):
    """The files take turns, so that the small ones are hit as often as the large ones."""
    rng = np.random.default_rng(0)
    paths = sorted(path for path in copy.rglob("*") if path.is_file())
    for trial in range(100):
        path = paths[trial % len(paths)]
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        found = errors(copy)
        assert path in {finding.file for finding in found}, path
        path.write_bytes(content)
    assert not errors(copy)


def test_truncation_at_every_512_bytes_is_found(copy):
    path = shard_of(copy, 1)
    content = path.read_bytes()
    # Tars are long here: every record of the first samples, then each twentieth.
    sizes = [s for n, s in enumerate(range(0, len(content), 512)) if n < 12 or n % 20 == 0]
    for size in sizes:
        path.write_bytes(content[:size])
        named = [f for f in errors(copy) if f.file == path and f.check == "files"]
        assert f"has {size} bytes, the manifest says {len(content)}" in named[0].what
        first = 16 if path.suffix != ".tar" else 11
        assert named[0].place == f"rows {first} to {2 * first - 1}"


def test_a_damaged_shard_names_its_windows(copy):
    path, row = shard_of(copy, 1), 11
    content = bytearray(path.read_bytes())
    if path.suffix == ".tar":
        with_targets = content.index(b".targets.pco")
        content[with_targets + 512 + 40] ^= 1
    else:
        content[20], row = content[20] ^ 1, 16
    path.write_bytes(content)
    window = small_windows()[row]
    place = f"row {row} ({window.chrom}:{window.start}-{window.end})"
    assert [f.place for f in errors(copy) if f.check == "targets"] == [place]


def test_missing_emptied_swapped_and_unexpected_files(copy):
    path, other = shard_of(copy, 0), shard_of(copy, 1)
    content = path.read_bytes()
    path.unlink()
    assert any(f.file == path and "is missing" in f.what for f in errors(copy))
    path.touch()
    assert any(f.file == path and "has 0 bytes" in f.what for f in errors(copy))
    path.write_bytes(other.read_bytes())
    assert any(f.file == path for f in errors(copy))
    path.write_bytes(content)
    stray = copy / "targets-copy.txt"
    stray.touch()
    assert texts(errors(copy)) == [f"{stray}: is not in the manifest: remove it"]
    stray.unlink()
    (copy / "genome/c/0").unlink()
    named = next(f for f in errors(copy) if f.file == copy / "genome/c/0")
    assert named.place == "chrI:0-3000, chrII:0-2000, chrIII:0-1500"


def test_what_a_file_manager_left_is_a_warning_and_no_error(copy):
    names = (".DS_Store", "._zarr.json", "genome/Thumbs.db")
    for name in names:
        (copy / name).touch()
    found = verify(copy)[copy]
    assert {finding.file for finding in found} == {copy / name for name in names}
    assert {finding.severity for finding in found} == {"warning"}
    assert list_files(copy).keys().isdisjoint(names)


def test_a_dataset_that_lost_its_manifest_is_not_passed_over(zarr_form, tmp_path):
    whole = shutil.copytree(zarr_form, tmp_path / "whole")
    lost = shutil.copytree(zarr_form, tmp_path / "lost")
    (lost / "manifest.json").unlink()
    found = verify(tmp_path)
    assert texts(found[lost]) == [f"{lost / 'manifest.json'}: is missing: copy the dataset again"]
    assert found[whole] == [] and verify(lost) == {lost: found[lost]}


# ---- Faults that all checksums agree with ------------------------------------------------------


def renew_checksums(folder: Path, **changes) -> None:
    changes["files"] = list_files(folder)
    save_manifest(folder, read_manifest(folder)[0].model_copy(update=changes))


def open_targets(folder: Path) -> zarr.Array:
    with codec_warning_ignored():
        return zarr.open_array(folder / "targets", mode="r+")


def test_a_chunk_that_was_never_written_is_found(tmp_path):
    """zarr reads it as fill values; nothing but reading every window tells."""
    targets = small_targets()
    targets[20] = np.nan
    folder = write_small_dataset(
        tmp_path / "tiny", targets, means=track_means(targets, small_windows())
    )
    assert [(f.check, f.place) for f in errors(folder)] == [("targets", "row 20 (chrI:2560-2688)")]
    assert errors(folder)[0].what == "is missing"


def test_a_shard_that_the_manifest_forgot_is_found(copy):
    path = shard_of(copy, 1)
    path.unlink()
    renew_checksums(copy)
    named = next(f for f in errors(copy) if f.check == "counts")
    assert (named.file, named.what) == (path, "should be there, but is not in the manifest")
    assert named.place.startswith("rows 1")


def test_nan_and_inf_are_named_with_window_and_track(tmp_path):
    targets = small_targets()
    targets[3, 2, 1] = np.nan
    targets[5, 0, 2] = np.inf
    folder = write_small_dataset(
        tmp_path / "tiny", targets, means=track_means(small_targets(), small_windows())
    )
    found = [f for f in errors(folder) if f.check == "targets"]
    assert [f.place for f in found] == ["row 3 (chrI:384-512)", "row 5 (chrI:640-768)"]
    assert "holds NaN in track1" in found[0].what
    assert found[1].what == "holds inf in track2"


def test_nan_is_no_fault_where_it_means_not_measured(tmp_path):
    targets = small_targets()
    targets[23:38, :, 1] = np.nan
    targets[2, 3] = np.nan
    folder = write_small_dataset(tmp_path / "tiny", targets, missing="nan")
    assert [(f.severity, f.what, f.place) for f in verify_species(folder)] == [
        ("warning", "is measured nowhere in valid", "track1")
    ]


def test_dead_constant_and_saturated_tracks_are_warned_of(tmp_path):
    targets = small_targets()
    targets[38:, :, 0] = 0
    targets[..., 1] = 2
    targets[4, 1, 2] = 65504
    folder = write_small_dataset(tmp_path / "tiny", targets)
    assert {(f.severity, f.place, f.what) for f in verify_species(folder)} == {
        ("warning", "track0", "is dead, 0 in every bin of test"),
        ("warning", "track1", "is 2 in every measured bin"),
        ("warning", "track2", "has 1 bins at the limit of float16, 65504"),
    }


def test_targets_below_0_are_warned_of(tmp_path):
    targets = small_targets()
    targets[5, 2, 1] = -0.5
    (found,) = verify_species(write_small_dataset(tmp_path / "tiny", targets))
    assert (found.severity, found.place) == ("warning", "track1")
    assert found.what == "goes down to -0.5: training refuses targets below 0"


def test_a_wrong_mean_is_found(tmp_path):
    means = track_means(small_targets(), small_windows()) * [1, 1.001, 1]
    folder = write_small_dataset(tmp_path / "tiny", means=means)
    (found,) = errors(folder)
    assert found.place == "track1" and found.what.startswith("says mean 2.26102, the targets give")
    assert found.file == folder / "tracks.tsv"


def with_window(row: int, **changes) -> list[Interval]:
    windows = small_windows()
    fields = {name: getattr(windows[row], name) for name in ("chrom", "start", "end", "split")}
    windows[row] = Interval(**(fields | changes))
    return windows


@pytest.mark.parametrize(
    "windows, message",
    [
        (with_window(4, end=600), "row 4 (chrI:512-600): is 88 bp long, a target of 8 bins is 128"),
        (with_window(22, start=2900, end=3028), "does not hold 2900-3028"),
        (with_window(4, chrom="chrX"), "the stored sequence of chrX does not hold 512-640"),
        (with_window(5, start=512, end=640), "row 5 (chrI:512-640): is listed twice"),
        (with_window(5, start=0, end=128), "row 5 (chrI:0-128): comes after a window that lies"),
    ],
)  # fmt: skip
def test_faulty_windows_are_named(tmp_path, windows, message):
    folder = write_small_dataset(tmp_path / "tiny", windows=windows)
    found = [f for f in errors(folder) if f.check == "windows"]
    assert any(message in str(f) for f in found), texts(found)
    assert {f.file for f in found} == {folder / "windows.bed"}


def test_wrong_counts_and_split_hash_are_found(tmp_path):
    counts = {"train": 24, "valid": 14, "test": 11}
    split = Split(method="chroms", hash=split_hash(small_windows()[1:]))
    folder = write_small_dataset(tmp_path / "tiny", num_windows=counts, split=split)
    assert texts(errors(folder)) == [
        f"{folder / 'windows.bed'}: has 11 test, 23 train, 15 valid windows, the manifest says "
        "11 test, 24 train, 14 valid",
        f"{folder / 'windows.bed'}: does not have the split hash that the manifest says",
    ]


def test_contigs_that_lie_elsewhere_than_the_manifest_says_are_found(tmp_path):
    folder = write_small_dataset(tmp_path / "tiny")
    manifest, _ = read_manifest(folder)
    first, second, third = manifest.contigs
    moved = [replace(first, offset=2_000), replace(second, offset=0)]
    save_manifest(folder, manifest.model_copy(update={"contigs": [*moved, third]}))
    path = folder / "manifest.json"
    assert texts(errors(folder))[:2] == [
        f"{path}, chrI: begins at 2,000 of genome, the contigs before end at 0",
        f"{path}, chrII: begins at 0 of genome, the contigs before end at 3,000",
    ]


def test_tracks_in_another_order_than_their_files_are_found(tmp_path):
    names = ["0.bw", "2.bw", "1.bw"]
    tracks = [Source(name=name, bytes=1, sha256="") for name in names]
    folder = write_small_dataset(tmp_path / "tiny", sources=Sources(tracks=tracks))
    assert texts(errors(folder)) == [
        f"{folder / 'tracks.tsv'}, track1: is made from 1.bw, the manifest says 2.bw",
        f"{folder / 'tracks.tsv'}, track2: is made from 2.bw, the manifest says 1.bw",
    ]


def test_targets_in_two_splits_are_an_error_and_context_a_warning(tmp_path):
    windows = with_window(5, split="test")
    folder = write_small_dataset(tmp_path / "context", windows=windows)
    found = [f for f in verify_species(folder) if f.check == "splits"]
    assert {f.severity for f in found} == {"warning"}
    assert any("test: 1 windows see up to 64 bp of targets of train" in f.what for f in found)
    windows = with_window(5, start=600, end=728, split="test")
    folder = write_small_dataset(tmp_path / "targets", windows=windows)
    found = [f for f in errors(folder) if f.check == "splits"]
    assert any("test: 1 targets overlap targets of train" in f.what for f in found), texts(found)


def test_unusual_bases_are_warned_of(tmp_path):
    genome = small_genome()
    genome[0][640:768] = 4  # all N
    genome[1][0:400] = 2  # all G
    folder = write_small_dataset(tmp_path / "tiny", genome=genome)
    found = [f for f in verify_species(folder) if f.check == "bases"]
    assert [f.severity for f in found] == ["warning", "warning"]
    assert "more than 50 % of the input is N in 1 windows: row 5 (chrI:640-768)" in found[0].what
    assert "row 23 (chrII:0-128), row 24 (chrII:128-256)" in found[1].what


def test_codes_that_are_no_bases_are_found(tmp_path):
    genome = small_genome()
    genome[2][100] = 9
    folder = write_small_dataset(tmp_path / "tiny", genome=genome)
    found = [f for f in errors(folder) if f.check == "genome"]
    assert found[0].place == "chrI:0-3000, chrII:0-2000, chrIII:0-1500"
    assert "holds what is no base" in found[0].what


def test_arrays_of_another_shape_are_found(tmp_path):
    contigs = [Contig(name=name, length=length, offset=0) for name, length in list(LENGTHS.items())]
    folder = write_small_dataset(tmp_path / "tiny")
    renew_checksums(folder, contigs=contigs[:2])
    assert any("shape is (6500,), expected (5000,)" in f.what for f in errors(folder))


def test_a_sample_that_disagrees_with_the_dataset_is_found(tar_form, tmp_path):
    folder = shutil.copytree(tar_form, tmp_path / "tiny")
    path = folder / "shards/targets-000000.tar"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"start": 128', b'"start": 127', 1))
    renew_checksums(folder)
    assert [(f.check, f.file, f.what) for f in errors(folder)] == [
        ("layout", path, "00000001.json differs from windows.bed")
    ]
    path.write_bytes(content.replace(b"00000001.json", b"00000007.json", 1))
    renew_checksums(folder)
    assert any("is no readable tar file" in f.what or "missing" in f.what for f in errors(folder))


@pytest.mark.parametrize(
    "name", ["windows.bed", "tracks.tsv", "targets/zarr.json", "manifest.json"]
)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"a\tb\n", b"{}"])
def test_files_that_are_something_else_are_findings_not_crashes(zarr_form, tmp_path, name, content):
    folder = shutil.copytree(zarr_form, tmp_path / "tiny")
    (folder / name).write_bytes(content)
    if name != "manifest.json":
        renew_checksums(folder)
    assert errors(folder)


def test_species_must_fit_together(tmp_path):
    first = write_small_dataset(tmp_path / "all" / "first")
    second = write_small_dataset(tmp_path / "all" / "second", seq_length=256)
    (tmp_path / "all" / "notes").mkdir()
    found = verify(tmp_path / "all")
    assert list(found) == [first, second]
    assert [(f.severity, f.what) for f in found[second]] == [
        ("warning", f"seq_length is 256, 192 in {first}")
    ]
    save_manifest(second, read_manifest(second)[0].model_copy(update={"species": "first"}))
    assert any("is species 'first'" in f.what for f in verify(tmp_path / "all")[second])
    with pytest.raises(UserError, match="no species folder here"):
        verify(tmp_path / "all" / "notes")


def test_the_command(tar_form, tmp_path):
    copy = shutil.copytree(tar_form, tmp_path / "tiny")
    done = run(sys.executable, VERIFY, copy)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{copy}: sound, 0 errors, 0 warnings\nchecked 1 datasets in ")
    path = shard_of(copy, 1)
    path.write_bytes(path.read_bytes()[:700])
    done = run_here(VERIFY, copy)
    assert done.returncode == 1
    assert f"{copy}: unfit, " in done.stdout and f"  {path}, rows 1" in done.stdout
    done = run_here(VERIFY, copy.parent, "--json", "--workers", 2)
    assert done.returncode == 1
    found = json.loads(done.stdout)[str(copy)]
    assert {finding["severity"] for finding in found} == {"error"}
    assert found[0].keys() == {"severity", "check", "file", "what", "place"}
    done = run_here(VERIFY, tmp_path / "nothing")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path / 'nothing'}: no such folder\n"


def test_of_several_folders_each_is_reported_and_the_worst_is_the_status(copy, zarr_form, tmp_path):
    other = zarr_form.parent
    done = run_here(VERIFY, copy, other)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{copy}: sound, 0 errors, 0 warnings\n{zarr_form}: sound, ")
    assert "checked 2 datasets in " in done.stdout
    path = shard_of(copy, 1)
    path.write_bytes(path.read_bytes()[:700])
    # The unfit one first: what comes after it must not make it good.
    done = run_here(VERIFY, copy, other)
    assert done.returncode == 1
    assert f"{copy}: unfit, " in done.stdout and f"{zarr_form}: sound, " in done.stdout
    done = run_here(VERIFY, tmp_path / "nothing", copy, other, "--json")
    assert (done.returncode, done.stderr.count("no such folder")) == (2, 1)
    found = json.loads(done.stdout)
    assert list(found) == [str(copy), str(zarr_form)] and found[str(copy)]
