"""From a checkpoint's files to one plain model, and its export."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import MODEL, write_run
from made_up_checkpoints import seal, write_checkpoint
from safetensors.torch import load_file, save_file

from spacescale import cli
from spacescale.checkpoint import layout
from spacescale.checkpoint.consolidate import consolidate, load_model
from spacescale.checkpoint.convert import convert
from spacescale.checkpoint.identity import beginning_of
from spacescale.checkpoint.probe import (
    TOLERANCE,
    Probe,
    compare_with_probe,
    probe_tensors,
    read_probe,
    take_probe,
)
from spacescale.checkpoint.writing import save_tensors
from spacescale.config import Config
from spacescale.errors import UserError
from spacescale.model.exports import load_weights, read_export
from spacescale.model.space import Space, meta_model
from spacescale.objectives import objective_of

OBJECTIVE = objective_of(Config(model=MODEL))


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


def test_counters_stay_integers(written):
    assert (
        consolidate(written.checkpoint)["stem.1.block.0.num_batches_tracked"].dtype == torch.int64
    )


def test_loading_makes_no_second_copy(written):
    weights = consolidate(written.checkpoint)
    model = meta_model(MODEL)
    load_weights(model, weights, "here")
    for name, tensor in model.state_dict().items():
        assert tensor.data_ptr() == weights[name].data_ptr(), name
    assert {p.requires_grad for p in model.parameters()} == {True}


def test_load_model_gives_the_trained_predictions(written):
    model, config = load_model(written.checkpoint)
    assert config.model == MODEL and not model.training
    found = take_probe(model, OBJECTIVE, torch.device("cpu"))
    stored = read_probe(written.checkpoint / "probe.safetensors")
    assert stored.experts.keys() == {
        "transformer.0.moe.router.choose/0", "decoder.choose/0", "decoder.choose/1",
    }  # fmt: skip
    for part in ("predictions", "experts"):
        assert getattr(found, part).keys() == getattr(stored, part).keys()
        for name, expected in getattr(stored, part).items():
            assert torch.equal(getattr(found, part)[name], expected), name


@pytest.mark.parametrize("rank", [0, 1])
def test_a_missing_state_file_is_named(written, rank):
    (written.checkpoint / f"state-0000{rank}.safetensors").unlink()
    with pytest.raises(UserError, match=rf"state-0000{rank}\.safetensors: missing"):
        load_model(written.checkpoint)


@pytest.mark.parametrize("rank, end", [(0, 0), (1, 360)])
def test_a_gap_is_named_even_where_the_manifest_does_not_know_of_it(written, rank, end):
    (written.checkpoint / f"state-0000{rank}.safetensors").unlink()
    layout.write_manifest(written.checkpoint)
    with pytest.raises(UserError, match=rf"weight of stem.0.weight is whole for {end} of 720"):
        load_model(written.checkpoint)


def test_a_piece_given_twice_is_named(written):
    first = written.checkpoint / "state-00000.safetensors"
    shutil.copy(first, first.with_name("state-00002.safetensors"))
    layout.write_manifest(written.checkpoint)
    with pytest.raises(UserError, match="is whole for 360 of 720 numbers"):
        load_model(written.checkpoint)


@pytest.mark.parametrize("name", ["state-00000.safetensors", "buffers.safetensors"])
def test_a_pickle_in_place_of_a_file_is_refused_and_nothing_is_left(written, tmp_path, name):
    torch.save({"weight": torch.zeros(3)}, written.checkpoint / name)
    layout.write_manifest(written.checkpoint)
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
        convert(written.run, tmp_path / "export")
    assert files_of(tmp_path) == files_of_run(written, tmp_path)


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({"weight/stem.0.weight": torch.zeros(3)}, "'weight/stem.0.weight' is not a piece"),
        ({"gradient/stem.0.weight/0": torch.zeros(3)}, "is not a piece of a parameter"),
        ({"weight/stem.0.weight/0": torch.zeros(3, 1)}, "is not a piece of a parameter"),
        ({"weight/stem.0.weight/0": torch.zeros(3).half()}, "is not a piece of a parameter"),
        ({"weight/stem.9.weight/0": torch.zeros(3)}, "also holds 1 .*first stem.9.weight"),
    ],
)
def test_what_is_not_a_piece_of_the_model_is_named(written, tensors, message):
    save_file(tensors, written.checkpoint / "state-00002.safetensors")
    layout.write_manifest(written.checkpoint)
    with pytest.raises(UserError, match=message):
        load_model(written.checkpoint)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere/state\.safetensors: cannot be written"):
        save_tensors({}, tmp_path / "nowhere/state.safetensors")


def test_buffers_of_another_model_are_named(written):
    path = written.checkpoint / "buffers.safetensors"
    buffers = load_file(path)
    buffers["stem.1.block.0.running_var"] = torch.ones(3)
    save_file(buffers, path)
    layout.write_manifest(written.checkpoint)
    with pytest.raises(UserError, match=r"buffers.safetensors: stem.1.block.0.running_var is not"):
        load_model(written.checkpoint)


def files_of_run(written, tmp_path):
    return {Path("run")} | {Path("run") / p for p in files_of(written.run)}


def test_convert_writes_weights_configuration_and_tracks(written, tmp_path):
    out = tmp_path / "deep" / "export"
    found = convert(written.checkpoint, out)
    assert found.difference <= 1e-6 and found.turned == 0
    assert {p.as_posix() for p in files_of(out)} == {
        "config.json", "model.safetensors", "tracks", "tracks/ant.tsv", "tracks/bee.tsv",
    }  # fmt: skip
    assert read_export(out)["trained"]["step"] == 7
    model = Space.from_pretrained(out)
    for name, tensor in written.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_convert_takes_the_best_checkpoint_of_a_run(written, tmp_path):
    state = layout.read_state(written.checkpoint)
    state["metrics"] = {"step": 7, "valid/pearson_log1p": 0.5}
    seal(written.checkpoint, state)
    write_checkpoint(written.run, 9, score=0.4)
    convert(written.run, tmp_path / "export")
    assert read_export(tmp_path / "export")["trained"]["step"] == 7


def test_an_export_keeps_what_its_training_began_with(written, tmp_path):
    """As far as the checkpoint tells; that it began anew is something else than not telling."""
    began = beginning_of(Path("runs/old"), written.checkpoint)
    assert "began_with" not in began and began["seq_length"] == MODEL.seq_length
    for name, kept in {
        "old": {},
        "anew": {"began_with": None},
        "more": {"began_with": began},
    }.items():
        seal(written.checkpoint, layout.read_state(written.checkpoint) | kept)
        convert(written.checkpoint, tmp_path / name)
        trained = read_export(tmp_path / name)["trained"]
        assert layout.beginning(trained) == kept
    again = beginning_of(Path("again"), tmp_path / "more")
    assert again["path"] == "again" and again["began_with"] == began


def test_files_of_an_export_have_the_permissions_that_the_umask_gives(written, tmp_path):
    before = os.umask(0o027)  # other than the usual one, and than what a temporary file gets
    try:
        convert(written.checkpoint, tmp_path / "export")
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "export").iterdir() if path.is_file()]
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in files}
    assert modes == {"config.json": "0o640", "model.safetensors": "0o640"}


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


def test_a_checkpoint_without_a_probe_converts_and_says_that_nothing_was_compared(
    written, tmp_path, capsys, monkeypatch
):
    (written.checkpoint / "probe.safetensors").unlink()
    with pytest.raises(UserError, match=r"probe\.safetensors: missing from the checkpoint"):
        convert(written.run, tmp_path / "export")
    layout.write_manifest(written.checkpoint)
    monkeypatch.setattr(
        sys, "argv", ["spacescale", "convert", str(written.run), "--out", str(tmp_path / "export")]
    )
    assert cli.main() == 0
    said = capsys.readouterr().out
    assert "holds no probe" in said and "not held against predictions" in said
    model = Space.from_pretrained(tmp_path / "export")
    assert torch.equal(model.stem[0].weight, written.model.stem[0].weight)


def on_the_edge(model: Space, gap: float) -> Space:
    """The second expert's gate is the first's but for `gap`: which of them is chosen hangs on it.

    With top-3 of 4, the fourth is the one below them everywhere.
    """
    router = model.transformer[0].moe.router
    with torch.no_grad():
        router.weight[:] = 0.0
        router.bias[:, :4] = torch.tensor([1.0, 1.0 + gap, 2.0, 3.0])
    return model


def test_a_choice_that_turns_on_the_last_bit_is_counted_and_does_not_hide_the_rest(tmp_path):
    torch.manual_seed(3)
    model, path = Space(MODEL).eval(), tmp_path / "probe.safetensors"
    saved = take_probe(on_the_edge(model, 1e-6), OBJECTIVE, torch.device("cpu"))
    save_tensors(probe_tensors(saved), path)
    turned = take_probe(on_the_edge(model, -1e-6), OBJECTIVE, torch.device("cpu"))
    bee = saved.predictions["bee"]
    assert float((turned.predictions["bee"] - bee).abs().max() / bee.max()) > TOLERANCE
    found = compare_with_probe(path, model, OBJECTIVE)
    assert found.difference < 1e-6
    positions = 2 * (MODEL.seq_length // MODEL.bin_size + 1)  # of two species, each with its token
    assert found.turned == positions
    assert f"{positions} of {found.choices:,} lie on the edge" in str(found)


@pytest.mark.parametrize("own", [{}, {"bee": 1}], ids=["shared", "own"])
def test_another_choice_than_on_the_edge_is_refused(tmp_path, own):
    """What a species may not choose, as ant bee's own expert, has no part in the largest logit."""
    torch.manual_seed(3)
    experts = {"species_num_experts": 4 + len(own), "own_experts": own}
    config = MODEL.model_copy(update=experts)
    model, path = Space(config).eval(), tmp_path / "probe.safetensors"
    objective = objective_of(Config(model=config))
    probe = take_probe(on_the_edge(model, 1e-2), objective, torch.device("cpu"))
    save_tensors(probe_tensors(probe), path)
    with pytest.raises(UserError, match=r"chooses other experts .* by 3\.33e-03 of the largest"):
        compare_with_probe(path, on_the_edge(model, -1e-2), objective)


def test_a_probe_of_format_2_kept_no_choices_and_is_held_to_all_the_same(written, tmp_path):
    path = written.checkpoint / "probe.safetensors"
    without_choices = Probe(read_probe(path).predictions, {})
    path.unlink()
    save_tensors(probe_tensors(without_choices), path)
    layout.write_manifest(written.checkpoint)
    seal(written.checkpoint, layout.read_state(written.checkpoint) | {"format_version": 2})
    manifest = written.checkpoint / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format_version": 4', '"format_version": 2'))
    found = convert(written.run, tmp_path / "export")
    assert (found.turned, found.choices) == (0, 0)


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
