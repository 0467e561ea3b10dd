import json
import shutil
import sys

import numpy as np
import pytest
from made_up_checkpoints import flip, write_checkpoint
from small_datasets import write_small_dataset
from small_genomes import small_genome

from spacescale.config import LossConfig
from spacescale.dataset.manifest import find_species
from spacescale.dataset.reader import SpeciesData
from spacescale.errors import UserError
from spacescale.evals.data_info import draw_coverage
from spacescale.evals.info import describe
from spacescale.prepare.options import DatasetOptions
from spacescale.prepare.stages import make_dataset
from spacescale.presets import RELEASED
from spacescale.space_config import ModelConfig
from spacescale.splits.options import SplitOptions
from spacescale.testing.simulated_genomes import write_simulated_genomes

MODEL = ModelConfig(
    species={"finch": ("cage", "cage", "dnase_atac"), "perch": ("cage",)},
    seq_length=2048,
    target_length=48,
    num_downsamples=5,
    dim=96,
    dim_divisible_by=16,
    depth=2,
    heads=4,
).model_dump(mode="json")
LOSS = LossConfig(cv_over="gates").model_dump(mode="json")
METRICS = {"valid/pearson_log1p/finch": 0.61249, "valid/pearson_log1p/perch": None}
VERSIONS = {"spacescale": "0.1.0", "torch": "2.9"}
OF_THE_MODEL = [
    "input        2,048 bp, predicts 48 bins of 32 bp",
    "size         dim 96, depth 2, 4 species experts (top 3), 8 track experts (top 3)",
    "as released  model.group_weights, loss.cv_over",
    "finch        3 tracks: 2 cage, 1 dnase_atac",
    "perch        1 tracks: 1 cage",
    "validation   finch: Pearson (log1p) 0.612",
    "made with    spacescale 0.1.0, torch 2.9",
]


@pytest.fixture
def run(tmp_path):
    """A run folder with one checkpoint, as far as it is read here."""
    more = {"config": {"model": MODEL, "loss": LOSS}, "metrics": METRICS, "versions": VERSIONS}
    return write_checkpoint(tmp_path / "run", 40, **more).parents[1]


@pytest.fixture
def export(tmp_path):
    """An export, as far as it is read here."""
    payload = {
        "format": "spacescale-model",
        "format_version": 1,
        "model": MODEL,
        "track_scale": "mean",
        "trained": {
            "step": 40,
            "loss": LOSS,
            "metrics": METRICS,
            "data_manifests": {},
            "versions": VERSIONS,
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(payload))
    (tmp_path / "model.safetensors").touch()
    return tmp_path


def test_a_run_is_described_by_its_latest_checkpoint(run):
    lines = describe(run).splitlines()
    assert lines[0] == f"checkpoint   {run / 'checkpoints' / 'step-00000040'}"
    assert lines[1:3] == ["step         40", "best of run  not known"]
    assert lines[3].startswith("layout       2 processes, expert parallel 2, ZeRO-2")
    assert lines[4].startswith("probe        none: ")
    assert lines[5:] == OF_THE_MODEL


def test_weights_that_training_began_with_are_named(export):
    payload = json.loads((export / "config.json").read_text())
    old = {"path": "/old", "digest": "d" * 12, "step": 1000, "seq_length": 2048}
    old |= {"reads_anywhere": False, "data_manifests": {"finch": "a" * 64}, "data_splits": {}}
    older = {**old, "path": "/older", "step": None, "data_manifests": {"moth": None}}
    payload["trained"]["began_with"] = {**old, "began_with": older}
    (export / "config.json").write_text(json.dumps(payload))
    assert describe(export).splitlines()[-3:-1] == [
        "began with   /old: step 1,000, of finch (aaaaaaaaaaaa)",
        "began with   /older: an unknown step, of moth (data not known)",
    ]


def test_a_checkpoint_names_the_best_of_its_run(run):
    write_checkpoint(run, 30, score=0.5)
    lines = describe(run / "checkpoints" / "step-00000040").splitlines()
    assert lines[2] == "best of run  step-00000030"


def test_a_pointer_is_only_a_hint(run):
    (run / "checkpoints" / "latest").write_bytes(b"\xff\xfe step-00000050")
    assert describe(run).splitlines()[1] == "step         40"


def test_a_damaged_checkpoint_is_never_called_fine(run):
    assert describe(run, verify=True).endswith("\nverified     every file is as it was written")
    flip(run / "checkpoints/step-00000040/state-00000.safetensors")
    with pytest.raises(UserError, match=r"state-00000\.safetensors: damaged"):
        describe(run, verify=True)
    assert "verified" not in describe(run)
    flip(run / "checkpoints/step-00000040/spacescale.json", 30)
    with pytest.raises(UserError, match=r"spacescale\.json: damaged"):
        describe(run)


def test_a_best_that_cannot_be_told_does_not_hide_the_rest(run):
    flip(write_checkpoint(run, 30, score=0.5) / "spacescale.json")
    lines = describe(run).splitlines()
    assert lines[1] == "step         40"
    assert lines[2].startswith("best of run  not known: ") and "step-00000030" in lines[2]


def test_only_checkpoints_are_verified_here(export):
    with pytest.raises(UserError, match="no checkpoint to verify"):
        describe(export, verify=True)


@pytest.mark.parametrize(
    "damage, message",
    [
        (b"\xff\xfe", "config.json: damaged: not valid JSON"),
        (b"[" * 100_000, "config.json: damaged: not valid JSON"),
        (b"[1]", "config.json: expected a JSON object, found list"),
        (b'{"format": "spacescale-model", "format_version": 1}', "config.json: model is missing"),
    ],
)
def test_a_damaged_export_is_named_in_one_line(export, damage, message):
    (export / "config.json").write_bytes(damage)
    with pytest.raises(UserError, match=message) as error:
        describe(export)
    assert "\n" not in str(error.value)


def test_an_export_says_what_it_predicts(export):
    assert describe(export).splitlines() == [
        f"export       {export}",
        "step         40",
        "predicts     multiples of each track's training mean",
        *OF_THE_MODEL,
    ]
    payload = json.loads((export / "config.json").read_text())
    (export / "config.json").write_text(json.dumps(payload | {"track_scale": "none"}))
    assert describe(export).splitlines()[2] == "predicts     stored values"


def test_a_dense_model_is_called_dense(export):
    payload = json.loads((export / "config.json").read_text())
    payload["model"] |= {"species_num_experts": 0, "decoder": "none"}
    (export / "config.json").write_text(json.dumps(payload))
    assert (
        "size         dim 96, depth 2, dense encoder, no decoder" in describe(export).splitlines()
    )


def test_own_experts_are_told(export):
    payload = json.loads((export / "config.json").read_text())
    payload["model"] |= {"species_num_experts": 6, "own_experts": {"finch": 2}}
    (export / "config.json").write_text(json.dumps(payload))
    assert "6 species experts (top 3), 2 of them of finch alone, " in describe(export)


def test_a_model_as_released_says_so(export):
    payload = json.loads((export / "config.json").read_text())
    payload["model"] |= RELEASED["model"]
    payload["trained"]["loss"] |= RELEASED["loss"]
    (export / "config.json").write_text(json.dumps(payload))
    line = next(x for x in describe(export).splitlines() if x.startswith("as released"))
    assert line.count("model.") == len(RELEASED["model"])
    assert line.count("loss.") == len(RELEASED["loss"])


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for each in write_simulated_genomes(folder / "genomes", scale=0.05)[1:]:
        make_dataset(
            DatasetOptions(
                species=each.name,
                fasta=each.fasta,
                targets=each.targets,
                splits=SplitOptions(contigs=each.contigs),
                out=folder / "shards",
                seq_length=2048,
                bin_size=32,
                target_length=48,
            )
        )
    return folder / "shards"


def test_a_data_set_at_a_glance(datasets):
    lines = describe(datasets / "moth").splitlines()
    data = SpeciesData.open(datasets / "moth")
    size = sum(entry.bytes for entry in data.manifest.files.values())
    assert lines[:2] == [f"data set     {datasets / 'moth'}", "species      moth"]
    for expected in (
        "input        2,048 bp; targets 48 bins of 32 bp, every 1,536 bp",
        "transform    basenji2020 v1; where nothing is measured: zero",
        f"identity     {data.manifest_hash[:16]} (sha256 of manifest.json)",
        f"looked at    all {len(data)} windows",
    ):
        assert expected in lines
    text = "\n".join(lines)
    assert "4 files of tracks (" in text
    assert f"hash {data.manifest.split.hash[:16]}" in text
    assert f"{size / 2**20:.1f} MiB in {len(data.manifest.files) + 1} files" in text
    table = [line.split() for line in lines if line.startswith(" " * 13)]
    train = next(cells for cells in table if cells[0] == "train")
    rows = data.rows("train")
    assert train[1] == str(len(rows))
    assert train[2] == f"{100 * len(rows) / len(data):.1f}"
    assert train[4] == f"{len(rows) * 48 * 32 / 1e6:.2f}"
    assert [cells[:2] for cells in table if cells[0] == "cage"] == [["cage", "2"]]
    targets = np.stack([data.targets(row) for row in rows])
    above_0 = np.median((targets > 0).mean(axis=(0, 1)))
    assert train[5] == f"{100 * above_0:.1f}"  # no "measured": zeros hide it
    assert any(line.startswith("zero-filled  ") for line in lines)
    codes = np.stack([data.sequence(row) for row in range(len(data))])
    gc = np.isin(codes, (1, 2)).sum(1) / (codes < 4).sum(1)
    assert f"bases        GC {np.median(gc):.3f} (" in text


def test_a_damaged_data_set_says_so(datasets, tmp_path):
    copy = shutil.copytree(datasets / "moth", tmp_path / "moth")
    shard = copy / "targets/c/0/0/0"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    last = describe(copy).splitlines()[-1]
    assert last.startswith("warning      1 faults in the windows looked at: run python data_prep/")


def test_several_data_sets_are_a_table(datasets):
    lines = describe(datasets).splitlines()
    assert lines[0] == "2 data sets; targets 48 bins of 32 bp"
    assert lines[1].split()[:4] == ["species", "windows", "Mbp", "tracks"]
    assert [line.split()[0] for line in lines[2:4]] == ["moth", "perch"]
    assert "zarr pcodec" in lines[2] and "basenji2020 v1" in lines[2]


def test_the_coverage_of_data_sets_is_drawn(datasets, tmp_path):
    path = tmp_path / "coverage.png"
    data = [SpeciesData.open(datasets / name) for name in ("moth", "perch")]
    windows = f"moth: all {len(data[0])} windows; perch: all {len(data[1])} windows"
    assert draw_coverage(path, data) == f"drawn        {path}: {windows}"
    assert path.stat().st_size > 10_000


def test_without_matplotlib_the_figure_says_what_to_install(datasets, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"--figure needs matplotlib: pip install 'spacescale"):
        draw_coverage(tmp_path / "coverage.png", [SpeciesData.open(datasets / "moth")])


def test_anything_else_is_an_error(tmp_path):
    with pytest.raises(UserError, match="nothing: no such folder"):
        describe(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"no run, checkpoint or export; as data: .* no species"):
        describe(tmp_path)


def test_a_file_is_told_from_a_folder_that_is_not_there(tmp_path):
    (tmp_path / "x.bw").touch()
    with pytest.raises(UserError, match=r"x.bw: a file; info takes folders"):
        describe(tmp_path / "x.bw")
    with pytest.raises(UserError, match=r"x.bw: a file; give the folder of a dataset"):
        find_species(tmp_path / "x.bw")


def test_a_genome_without_tracks(tmp_path):
    genome = small_genome(tmp_path)
    text = describe(genome.path)
    assert "species      tiny, without tracks: for training on bases or tokens" in text
    assert "contigs      4; the longest is chrI, 3,001 bp" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["train", "2", "49.3", "%", "0.00"] in rows
    told = genome.manifest.sequence
    assert told and told.lower_case
    assert f"{100 * told.lower_case / 6904:.1f} % of the bases are repeats (lower case)" in text
    assert "N 5.8 % of the bases" in text and "looked at    all bases" in text
    assert "split        chroms, valid chrII, test chrIII; hash " in text


def test_genomes_beside_species_with_tracks(tmp_path):
    small_genome(tmp_path)
    both = tmp_path / "both"
    shutil.copytree(tmp_path / "out/tiny", both / "tiny")
    write_small_dataset(both / "with")
    lines = describe(both).splitlines()
    assert lines[0].startswith("1 data sets; targets ")
    assert lines[3] == "1 genomes without tracks"
    assert lines[5].split()[:2] == ["tiny", "0.00"]
