"""From a checkpoint's files to one plain model, and its export."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import EXPERTS, MODEL, expert_file, write_run
from safetensors.torch import load_file, save_file

from spacescale.checkpoint import layout
from spacescale.checkpoint.consolidate import consolidate, load_space
from spacescale.checkpoint.convert import convert
from spacescale.checkpoint.probe import predict_probe
from spacescale.errors import UserError
from spacescale.model.space import Space, read_export


@pytest.fixture
def written(tmp_path):
    return write_run(tmp_path / "run")


def files_of(folder):
    return {p.relative_to(folder) for p in folder.rglob("*")}


def test_consolidated_weights_are_the_models_bit_by_bit(written):
    found = consolidate(written.checkpoint)
    expected = written.model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_experts_are_stacked_by_number_not_by_file_name(written):
    """Expert 10's file sorts before expert 2's."""
    for expert in range(12):
        part = {f"{EXPERTS}{w}.{expert}": torch.full((2, 3), expert) for w in ("w1", "w2", "w3")}
        torch.save(part, expert_file(written.checkpoint, expert))
    stacked = consolidate(written.checkpoint)[EXPERTS + "w1"]
    assert stacked[:, 0, 0].tolist() == list(range(12))


def test_half_precision_weights_come_back_as_float32_and_counters_stay_integers(written):
    path = written.checkpoint / "mp_rank_00_model_states.pt"
    state = torch.load(path, weights_only=True)["module"]
    state["species_token.weight"] = state["species_token.weight"].bfloat16()
    torch.save({"module": state}, path)
    found = consolidate(written.checkpoint)
    assert found["species_token.weight"].dtype == torch.float32
    assert found["stem.1.block.0.num_batches_tracked"].dtype == torch.int64


def test_load_space_gives_the_trained_predictions(written):
    model, config = load_space(written.checkpoint)
    assert config.model == MODEL and not model.training
    predicted = predict_probe(model, MODEL, torch.device("cpu"))
    for species, expected in load_file(written.checkpoint / "probe.safetensors").items():
        assert torch.equal(predicted[species], expected)


@pytest.mark.parametrize("expert", [1, 3])
def test_a_missing_expert_file_is_named(written, expert):
    expert_file(written.checkpoint, expert).unlink()
    with pytest.raises(UserError, match=f"layer_0_expert_{expert}_.*missing"):
        load_space(written.checkpoint)


@pytest.mark.parametrize("expert", [1, 3])
def test_a_missing_expert_is_named_even_where_the_manifest_does_not_know_it(written, expert):
    expert_file(written.checkpoint, expert).unlink()
    layout.write_manifest(written.checkpoint)
    with pytest.raises(UserError, match=r"expert 1 .*is missing|experts\.w1 is \(3, 48, 24\)"):
        load_space(written.checkpoint)


class Malicious:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["mp_rank_00_model_states.pt", "layer_0_expert_0_mp_rank_00"])
def test_code_pickled_into_a_weight_file_is_refused_and_never_run(written, tmp_path, name):
    path = next(written.checkpoint.glob(f"{name}*"))
    mark = tmp_path / "executed"
    pickle.loads(pickle.dumps(Malicious(mark)))
    assert mark.exists(), "the attack works where pickles are trusted"
    mark.unlink()
    torch.save({"module": Malicious(mark)}, path)
    layout.write_manifest(written.checkpoint)
    with pytest.raises(UserError, match=f"{path.name}: cannot be read as plain tensors"):
        convert(written.run, tmp_path / "export")
    assert not mark.exists()
    assert files_of(tmp_path) == files_of_run(written, tmp_path)


def files_of_run(written, tmp_path):
    return {Path("run")} | {Path("run") / p for p in files_of(written.run)}


def test_convert_writes_weights_configuration_and_tracks(written, tmp_path):
    out = tmp_path / "deep" / "export"
    assert convert(written.checkpoint, out) <= 1e-6
    assert {p.as_posix() for p in files_of(out)} == {
        "config.json", "model.safetensors", "tracks", "tracks/ant.tsv", "tracks/bee.tsv",
    }  # fmt: skip
    assert read_export(out)["trained"]["step"] == 7
    model = Space.from_pretrained(out)
    for name, tensor in written.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_convert_takes_the_best_checkpoint_of_a_run(written, tmp_path):
    folder = written.checkpoint.parent
    (folder / "latest").write_text("step-00000009")
    (folder / "best").write_text(written.checkpoint.name)
    convert(written.run, tmp_path / "export")
    assert read_export(tmp_path / "export")["trained"]["step"] == 7


def test_convert_refuses_an_existing_folder_and_leaves_it_alone(written, tmp_path):
    out = tmp_path / "export"
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="export: already exists; choose another --out"):
        convert(written.run, out)
    assert files_of(out) == {Path("mine.txt")}


def test_convert_leaves_nothing_behind_when_predictions_differ_from_the_probe(written, tmp_path):
    path = written.checkpoint / "probe.safetensors"
    probe = load_file(path)
    probe["bee"] = probe["bee"].clone()
    probe["bee"][0, 1, 0] += 0.01 * probe["bee"].max()
    save_file(probe, path)
    layout.write_manifest(written.checkpoint)
    with pytest.raises(UserError, match=r"probe\.safetensors: the converted model differs"):
        convert(written.run, tmp_path / "export")
    assert files_of(tmp_path) == files_of_run(written, tmp_path)


def test_convert_refuses_a_folder_without_checkpoints(tmp_path):
    with pytest.raises(UserError, match="no checkpoint here"):
        convert(tmp_path, tmp_path / "export")
    assert not list(tmp_path.iterdir())


def test_reading_checkpoints_does_not_import_deepspeed():
    code = (
        "import sys; sys.modules['deepspeed'] = None; "
        "import spacescale.checkpoint.convert, spacescale.evals.evaluation"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
