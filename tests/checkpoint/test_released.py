import json
import os
import pickle
import sys
from collections import Counter
from pathlib import Path

import checkpoints
import pytest
import torch
from foreign_folders import (
    HEADS,
    RELEASED,
    random_weights,
    same_bits,
    write_folder,
    write_released,
)
from safetensors.torch import load_file, save_file

from spacescale.checkpoint.released import (
    convert_to_released,
    export_released,
    from_released,
    import_released,
    released_config,
    to_released,
    to_released_config,
)
from spacescale.checkpoint.weight_files import read_weights
from spacescale.cli import main
from spacescale.errors import UserError
from spacescale.genome.released_grouping import released_grouping
from spacescale.genome.tracks import Track, read_targets, write_tracks
from spacescale.model.space import Space, meta_model
from spacescale.predict.trained_model import load_trained

DATA = Path(__file__).with_name("data")
PUBLISHED_PARAMETERS = 588_750_036


def released_weights(folder: Path):
    return torch.load(folder / "pytorch_model.bin", weights_only=True)


def test_the_published_checkpoint_fits_key_by_key():
    config = released_config(json.loads((DATA / "released_config.json").read_text()))
    ours = to_released(meta_model(config).state_dict(), config)
    published = json.loads((DATA / "released_shapes.json").read_text())
    assert {key: list(tensor.shape) for key, tensor in ours.items()} == published
    whole = {key for key, tensor in ours.items() if tensor.dtype == torch.int64}
    assert whole == {key for key in published if key.endswith("num_batches_tracked")}
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    counted = sum(t.numel() for key, t in ours.items() if not key.endswith(buffers))
    assert counted == PUBLISHED_PARAMETERS


def test_config_returns_byte_by_byte():
    text = (DATA / "released_config.json").read_text()
    original = json.loads(text)
    config = released_config(original)
    assert (config.dim, config.depth, config.species_top_k, config.tracks_top_k) == (1536, 11, 3, 3)
    assert (config.batchnorm, config.track_grouping) == ("per_species", "released")
    returned = to_released_config(config, original)
    assert json.dumps(returned, indent=2, sort_keys=True) + "\n" == text
    assert released_config(to_released_config(config, {})) == config


def test_absent_settings_are_the_released_defaults():
    config = released_config({"moe": "species_tracks"})
    assert (config.dim, config.tracks_num_experts, config.tracks_top_k) == (768, 15, 3)
    assert (config.species_num_experts, config.decoder) == (4, "moe")
    plain = released_config({})
    assert (plain.species_num_experts, plain.decoder) == (0, "none")


def test_released_grouping_counts():
    human, mouse = (Counter(released_grouping(species)) for species in HEADS)
    types = ("dnase_atac", "tf_chip", "histone_chip", "cage")
    assert [human[t] for t in types] == [684, 1889, 2102, 638]
    assert [mouse[t] for t in types] == [228, 291, 767, 357]
    with pytest.raises(UserError, match=r"species 'yeast'.*human, mouse"):
        released_grouping("yeast")


def test_parts_come_in_our_order():
    config = released_config(RELEASED)
    theirs = to_released(random_weights(config), config)
    ours = from_released(theirs, config, "x")
    gates = ours["decoder.gates.weight"].unflatten(0, (4, 2, 3))  # types, groups, experts
    for number, slug in enumerate(("dnase_atac", "tf_chip", "histone_chip", "cage")):
        place = config.profile_types.index(slug)
        for group in (0, 1):
            gate = 2 * number + group
            expected = theirs[f"model.tracks.gates.{gate}.0.weight"]
            assert torch.equal(gates[place, group], expected)
            row = theirs["model.tracks.gate_selector.weight"][gate]
            assert torch.equal(ours["decoder.from_sequence.weight"][2 * place + group], row)
    cage = theirs["model.tracks.tracks_embedding.CAGE"].flatten()
    assert torch.equal(ours["decoder.type_embedding"][config.profile_types.index("cage")], cage)
    mouse = theirs["model.transformer.species_embedding.mouse"].flatten()
    assert torch.equal(ours["species_token.weight"][1], mouse)


def test_gradients_take_the_same_way():
    config = released_config(RELEASED)
    model = Space(config)
    gradients = {key: torch.rand_like(p) for key, p in model.named_parameters()}
    theirs = to_released(gradients, config)
    assert not [key for key in theirs if "running" in key]
    assert same_bits(from_released(theirs, config, "gradients"), gradients)
    squares = sum(float(t.double().square().sum()) for t in theirs.values())
    expected = sum(float(t.double().square().sum()) for t in gradients.values())
    assert squares == pytest.approx(expected)


@pytest.mark.parametrize(
    ("pickled", "moe"),
    [(True, ["species", "tracks"]), (False, ["species"]), (True, ["baseline"])],
)
def test_import_and_export_return_every_bit(tmp_path, pickled, moe):
    source = write_released(tmp_path / "hub", pickled, moe=moe)
    original, _ = read_weights(source)
    assert import_released(source, tmp_path / "ours") == len(original)
    model = Space.from_pretrained(tmp_path / "ours")
    assert same_bits(to_released(model.state_dict(), model.config), original)
    assert export_released(tmp_path / "ours", tmp_path / "back") == len(original)
    assert same_bits(released_weights(tmp_path / "back"), original)
    text = (source / "config.json").read_text()
    assert (tmp_path / "back" / "config.json").read_text() == text


def test_half_precision_and_odd_bits_survive(tmp_path):
    config = released_config(RELEASED)
    weights = to_released(random_weights(config), config)
    weights["model.stem.0.weight"] = weights["model.stem.0.weight"].to(torch.bfloat16)
    weights["model.stem.0.bias"][:2] = torch.tensor([-0.0, float("inf")])
    source = write_folder(tmp_path / "hub", RELEASED, weights)
    import_released(source, tmp_path / "ours")
    export_released(tmp_path / "ours", tmp_path / "back")
    back = released_weights(tmp_path / "back")
    for key, tensor in weights.items():
        assert back[key].dtype == tensor.dtype
        assert (
            back[key]
            .contiguous()
            .flatten()
            .view(torch.uint8)
            .equal(tensor.contiguous().flatten().view(torch.uint8))
        ), key


def test_older_names(tmp_path):
    source = write_released(tmp_path / "hub")
    original = released_weights(source)
    older = {
        key.replace("model.", "enformer.", 1)
        .replace("heads.human.0", "tracks.output.human")
        .replace("heads.mouse.0", "tracks.output.mouse"): tensor
        for key, tensor in original.items()
    }
    assert "enformer.tracks.output.mouse.bias" in older
    torch.save(older, source / "pytorch_model.bin")
    import_released(source, tmp_path / "ours")
    export_released(tmp_path / "ours", tmp_path / "back")
    assert same_bits(released_weights(tmp_path / "back"), original)


def test_imported_tracks_are_numbered_and_grouped(tmp_path):
    import_released(write_released(tmp_path / "hub"), tmp_path / "ours")
    trained = load_trained(tmp_path / "ours")
    assert trained.scale_name == "none"
    assert [t.identifier for t in trained.tracks["mouse"][:2]] == ["mouse_0", "mouse_1"]
    assert tuple(t.assay for t in trained.tracks["human"]) == released_grouping("human")
    assert trained.model.config.species["human"] == released_grouping("human")
    assert float(trained.track_scale("human").means.sum()) == HEADS["human"]


def targets_table(path: Path, count: int) -> Path:
    tracks = [
        Track(index=i, identifier=f"ENCFF{i}", file=f"{i}.bw", strand_pair=i, assay="tf_chip")
        for i in range(count)
    ]
    write_tracks(path, tracks)
    return path


def test_targets_tables_name_the_tracks(tmp_path):
    source = write_released(tmp_path / "hub")
    table = read_targets(targets_table(tmp_path / "human.tsv", HEADS["human"]))
    import_released(source, tmp_path / "ours", {"human": table})
    tracks = load_trained(tmp_path / "ours").tracks
    assert (tracks["human"][7].identifier, tracks["mouse"][7].identifier) == ("ENCFF7", "mouse_7")
    assert tracks["human"][7].assay == "dnase_atac"  # what the weights were trained with
    # An older table with a lone quote, and what a file manager leaves.
    human = tmp_path / "ours/tracks/human.tsv"
    human.write_text(human.read_text().replace("\tENCFF7\t", '\t"ENCFF7\t'))
    (human.parent / "._human.tsv").write_bytes(b"\0\5\x16\7")
    tracks = load_trained(tmp_path / "ours").tracks
    assert (list(tracks), tracks["human"][7].identifier) == (["human", "mouse"], '"ENCFF7')
    with pytest.raises(UserError, match=r"'mouse': 5313 tracks; .*config.json has 1643"):
        import_released(source, tmp_path / "other", {"mouse": table})
    with pytest.raises(UserError, match=r"'yeast': .* has species human, mouse"):
        import_released(source, tmp_path / "other", {"yeast": table})


def without(key):
    return lambda weights: weights.pop(key)


def put(key, tensor):
    return lambda weights: weights.update({key: tensor})


TO_Q = "model.transformer.transformer.0.attention.fn.1.to_q.weight"
MISFITS = {
    "missing": (without(TO_Q), f"missing {TO_Q}"),
    "missing part": (
        without("model.tracks.gates.3.0.bias"),
        "missing model.tracks.gates.3.0.bias",
    ),
    "extra": (put("model.extra", torch.zeros(2)), "unexpected model.extra"),
    "misshapen": (
        put("model.tracks.input_proj.bias", torch.zeros(2, 20)),
        r"model.tracks.input_proj.bias is \(2, 20\), expected \(3, 20\)",
    ),
    "whole numbers": (
        put("model.stem.0.bias", torch.zeros(12, dtype=torch.int64)),
        "model.stem.0.bias is torch.int64, expected torch.float32",
    ),
    "named twice": (
        put("enformer.stem.0.bias", torch.zeros(12)),
        "unexpected enformer.stem.0.bias: model.stem.0.bias is given twice",
    ),
    "not a tensor": (put("epoch", 3), "'epoch' is int, expected a tensor"),
}


def assert_refused(tmp_path: Path, source: Path, message: str):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=message):
        import_released(source, tmp_path / "ours")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("change", "message"), MISFITS.values(), ids=MISFITS.keys())
def test_misfits_are_named_and_nothing_is_written(tmp_path, change, message):
    source = write_released(tmp_path / "hub")
    weights = released_weights(source)
    change(weights)
    torch.save(weights, source / "pytorch_model.bin")
    assert_refused(tmp_path, source, f"hub/pytorch_model.bin: {message}")


class Hostile:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickled_code_is_refused_and_not_run(tmp_path):
    source = write_released(tmp_path / "hub")
    hostile = released_weights(source) | {"model.stem.0.bias": Hostile(tmp_path / "run")}
    torch.save(hostile, source / "pytorch_model.bin")
    assert_refused(tmp_path, source, r"asks for \w+\.mkdir, and pickled code is never run")
    with (source / "pytorch_model.bin").open("wb") as file:
        pickle.dump(hostile["model.stem.0.bias"], file)
    assert_refused(tmp_path, source, "hub/pytorch_model.bin: cannot be read as plain tensors")


def test_damaged_files_are_refused(tmp_path):
    source = write_released(tmp_path / "hub")
    binary, safe = source / "pytorch_model.bin", source / "model.safetensors"
    weights, whole = released_weights(source), binary.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not weights"):
        binary.write_bytes(content)
        assert_refused(tmp_path, source, "pytorch_model.bin: cannot be read as plain tensors")
    torch.save([torch.zeros(2)], binary)
    assert_refused(tmp_path, source, "pytorch_model.bin: expected named tensors, found list")
    save_file(weights, safe)
    safe.write_bytes(safe.read_bytes()[:-10])
    assert_refused(tmp_path, source, "model.safetensors: damaged")
    safe.unlink()
    binary.unlink()
    assert_refused(tmp_path, source, "hub: neither model.safetensors nor pytorch_model.bin")


BAD_CONFIGS = {
    "not JSON": ("{", "not valid JSON"),
    "a list": ("[]", "expected a JSON object, found list"),
    "text": ({"dim": "wide"}, "dim='wide': Input should be a valid integer"),
    "heads": ({"output_heads": {"human": -1}}, "output_heads={'human': -1}: expected species"),
    "moe": ({"moe": ["birds"]}, r"moe=\['birds'\]: expected some of baseline"),
    "top-k": ({"topk": 9}, "species_top_k=9 exceeds"),
    "dropout": ({"dropout_rate": 2}, "dropout_rate=2: Input should be less than 1"),
    "other tracks": (
        {"output_heads": {"human": 5}},
        "output_heads={'human': 5}: .* give targets tables",
    ),
}


@pytest.mark.parametrize(("content", "message"), BAD_CONFIGS.values(), ids=BAD_CONFIGS.keys())
def test_bad_config_is_named(tmp_path, content, message):
    source = write_released(tmp_path / "hub")
    text = content if isinstance(content, str) else json.dumps(RELEASED | content)
    (source / "config.json").write_text(text)
    assert_refused(tmp_path, source, f"hub/config.json: .*{message}")


def test_missing_config_and_existing_out(tmp_path):
    source = write_released(tmp_path / "hub")
    with pytest.raises(UserError, match="hub: already exists"):
        import_released(source, source)
    (source / "config.json").unlink()
    assert_refused(tmp_path, source, r"hub/config.json: no such file; .* pytorch_model.bin")


def write_export(folder: Path, **changes) -> Path:
    """An export of ours; `changes` are of its model configuration."""
    values = released_config(RELEASED).model_dump() | changes
    config = type(released_config(RELEASED)).model_validate(values)
    folder.mkdir()
    save_file(random_weights(config), folder / "model.safetensors")
    payload = {"format": "spacescale-model", "format_version": 1, "track_scale": "mean"}
    payload |= {"trained": {"step": 3, "metrics": {}, "versions": {}, "data_manifests": {}}}
    payload["model"] = config.model_dump(mode="json")
    (folder / "config.json").write_text(json.dumps(payload))
    return folder


def test_export_of_own_weights_adds_what_nothing_reads(tmp_path):
    source = write_export(tmp_path / "own", unused_layer_norm=False)
    assert export_released(source, tmp_path / "out") == len(released_weights(tmp_path / "out"))
    added = released_weights(tmp_path / "out")["model.tracks.layer_norm.weight"]
    assert torch.equal(added, torch.ones(10))
    import_released(tmp_path / "out", tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    own = load_file(source / "model.safetensors")
    assert same_bits({key: again[key] for key in own}, own)


@pytest.mark.parametrize("kind", ["export", "run"])
def test_convert_to_released(tmp_path, monkeypatch, capsys, kind):
    source, out = tmp_path / "source", tmp_path / "out"
    if kind == "export":
        weights = load_file(write_export(source) / "model.safetensors")
    else:
        plain = checkpoints.MODEL.model_copy(update={"decoder": "none"})
        monkeypatch.setattr(checkpoints, "MODEL", plain)
        weights = checkpoints.write_run(source).model.state_dict()
    words = ["spacescale", "convert", source, "--to", "released", "--out", out]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    assert main() == 0
    proved = "predictions equal the checkpoint's own" in capsys.readouterr().out
    assert proved == (kind == "run")
    assert {path.name for path in out.iterdir()} == {"config.json", "pytorch_model.bin"}
    import_released(out, tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert same_bits({key: again[key] for key in weights}, weights)


def test_convert_to_released_refuses_what_does_not_fit(tmp_path):
    run = checkpoints.write_run(tmp_path / "run")
    with pytest.raises(UserError, match=r"step-00000007: its tracks are not grouped as released"):
        convert_to_released(run.run, tmp_path / "out")
    with pytest.raises(UserError, match=r"out: no run folder, checkpoint or export"):
        convert_to_released(tmp_path / "out", tmp_path / "more")
    assert list(tmp_path.iterdir()) == [run.run]


INEXPRESSIBLE = {
    "token": ({"species_token": False}, "model.species_token=False"),
    "mlp": ({"decoder": "mlp"}, "model.decoder=mlp"),
    "stem": ({"stem_dim": 4}, "model.stem_dim=4"),
    "dilated": ({"dilated_convs": 2}, "model.dilated_convs=2"),
    "own": (
        {"species_num_experts": 6, "own_experts": {"mouse": 1}, "zero_gates": "keep"},
        "model.own_experts={'mouse': 1}: the released layout shares all experts",
    ),
    "gates": ({"species_gates": "shared"}, "model.species_gates=shared: the released layout"),
    "groups": ({"groups_per_type": 3}, "model.groups_per_type=3: the released layout has 2"),
    "weights": ({"group_weights": "softmax_of_sum"}, "model.group_weights=softmax_of_sum"),
    "tracks": (
        {"species": {"human": ("cage", "tf_chip")}},
        "its tracks are not grouped as released",
    ),
}


@pytest.mark.parametrize(("changes", "message"), INEXPRESSIBLE.values(), ids=INEXPRESSIBLE.keys())
def test_export_refuses_what_the_released_code_cannot_compute(tmp_path, changes, message):
    source = write_export(tmp_path / "own", **changes)
    with pytest.raises(UserError, match=f"own: {message}"):
        export_released(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [source]


def test_export_checks_its_source(tmp_path):
    source = write_export(tmp_path / "own")
    weights = load_file(source / "model.safetensors")
    bias = weights.pop("stem.0.bias")
    save_file(weights, source / "model.safetensors")
    with pytest.raises(UserError, match=r"own/model.safetensors: missing stem.0.bias"):
        export_released(source, tmp_path / "out")
    save_file(weights | {"stem.0.bias": bias}, source / "model.safetensors")
    payload = json.loads((source / "config.json").read_text())
    payload["model"]["dim"] = "wide"
    (source / "config.json").write_text(json.dumps(payload))
    with pytest.raises(UserError, match=r"own/config.json: model.dim='wide'"):
        export_released(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [source]


def command(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["spacescale", *map(str, arguments)])
    return main()


def test_commands(tmp_path, monkeypatch, capsys):
    source = write_released(tmp_path / "hub")
    ours, back = tmp_path / "ours", tmp_path / "back"
    table = targets_table(tmp_path / "human.tsv", HEADS["human"])
    assert command(monkeypatch, "import", source, "--out", ours, "--targets", f"human={table}") == 0
    assert command(monkeypatch, "export", ours, "--out", back) == 0
    count = len(released_weights(source))
    said = capsys.readouterr().out
    assert f"{ours}: imported {count} tensors" in said
    assert f"{back}: exported {count} tensors" in said
    assert same_bits(released_weights(back), released_weights(source))
    assert command(monkeypatch, "import", source, "--out", back, "--upcycle", "space_tiny") == 2
    assert "--upcycle space_tiny: needs --from enformer" in capsys.readouterr().err
    assert command(monkeypatch, "import", source, "--out", back, "--targets", "human") == 2
    assert "--targets human: expected SPECIES=FILE" in capsys.readouterr().err
    assert command(monkeypatch, "info", ours) == 0
    assert "predicts     stored values" in capsys.readouterr().out
