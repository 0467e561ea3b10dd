"""One folder for both loaders, which refuses to work where it was tampered with."""

import ast
import inspect
import json
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import WINDOW, write_export
from tiny_models import some_codes

from spacescale.checkpoint.weight_files import save_weights
from spacescale.errors import UserError
from spacescale.hub.export import convert_for_hub
from spacescale.hub.sources import modeling_source
from spacescale.model.space import Space

transformers = pytest.importorskip("transformers", minversion="5")
AutoModel = transformers.AutoModel
CODES = some_codes(2, WINDOW)
LETTERS = ["".join("ACGTN"[code] for code in row) for row in CODES.tolist()]


def load(folder, kind=AutoModel, **options):
    return kind.from_pretrained(folder, trust_remote_code=True, **options)


def tracks(model, species="finch"):
    with torch.no_grad():
        return model(LETTERS, species=species).tracks


@pytest.fixture
def copy(hub_folder, tmp_path):
    # Code is loaded once for each name of a folder.
    return shutil.copytree(hub_folder, tmp_path / tmp_path.name)


def expected(folder, species="finch"):
    """In multiples of the track means, from stored values, as imported weights predict them."""
    with torch.no_grad():
        found = Space.from_pretrained(folder)({species: CODES}).prediction[species]
    means = {"finch": [0.5, 1.5, 2.5, 3.5, 4.5], "perch": [0.5, 1.5, 2.5]}[species]
    return found / torch.tensor(means)


def test_both_loaders_read_one_folder(hub_folder):
    model = load(hub_folder)
    for species in ("finch", "perch"):
        torch.testing.assert_close(tracks(model, species), expected(hub_folder, species))
    codes = model(CODES, species="perch", return_dict=False)
    torch.testing.assert_close(codes[1], expected(hub_folder, "perch"))
    assert model.embed("ACG", species="finch").shape == (1, 1, 96)


def test_own_experts_come_along(tmp_path):
    own = {"species_num_experts": 6, "own_experts": {"perch": 2}}
    export = write_export(tmp_path / "export", **own)
    convert_for_hub(export, tmp_path / "with-own-experts")
    model = load(tmp_path / "with-own-experts")
    assert model.space.transformer[0].moe.router.own == [(1, 2)]
    for species in ("finch", "perch"):
        torch.testing.assert_close(tracks(model, species), expected(export, species))


BARE = """
import sys
for name in ("spacescale", "deepspeed", "zarr", "tensorboard"):
    sys.modules[name] = None
import torch, transformers
model = transformers.AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
with torch.no_grad():
    torch.save(model(sys.argv[2], species="finch").tracks, sys.argv[3])
"""


@pytest.mark.long
def test_it_needs_nothing_of_ours(hub_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    out = tmp_path / "tracks.pt"
    command = [sys.executable, "-I", "-c", BARE, str(hub_folder), LETTERS[0], str(out)]
    subprocess.run(command, check=True, capture_output=True)
    torch.testing.assert_close(torch.load(out), expected(hub_folder)[:1])


def test_the_code_imports_torch_and_transformers_alone():
    roots = set()
    for node in ast.walk(ast.parse(modeling_source())):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            roots.add((node.module or "").split(".")[0])
    assert roots - sys.stdlib_module_names == {"torch", "transformers", "safetensors"}


def rewrite(path, change):
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def reconfigure(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def edit(folder, old, new):
    path = folder / "modeling_space.py"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def swap_species(config):
    species = config["model"]["species"]
    config["model"]["species"] = dict(reversed(species.items()))


SABOTAGE = {
    "another gamma scale": lambda f: reconfigure(
        f, lambda c: c["model"].update(gamma_scale="feature")
    ),
    "swapped species": lambda f: reconfigure(f, swap_species),
    "another order of bases": lambda f: edit(
        f, '("Aa", "Cc", "Gg", "TtUu")', '("TtUu", "Gg", "Cc", "Aa")'
    ),
    "noise in one tensor": lambda f: rewrite(
        f / "model.safetensors", lambda w: w["transformer.1.moe.router.weight"].mul_(1.5)
    ),
    "a decoder's expert": lambda f: rewrite(
        f / "model.safetensors", lambda w: w["decoder.experts.w1"].add_(0.1)
    ),
    "another slope": lambda f: edit(f, "GELU_SLOPE = 1.702", "GELU_SLOPE = 1.6"),
    "another sum of groups": lambda f: reconfigure(
        f, lambda c: c["model"].update(group_weights="softmax_of_sum")
    ),
}


@pytest.mark.parametrize("name", SABOTAGE)
def test_what_was_tampered_with_refuses_to_load(copy, name):
    SABOTAGE[name](copy)
    with pytest.raises(
        RuntimeError, match=r"does not compute what it did when it was exported: sp"
    ):
        load(copy)
    assert tracks(load(copy, prove=False)).isfinite().all()
    if "edit(" not in inspect.getsource(SABOTAGE[name]):  # the code there is not what we run
        with pytest.raises(UserError, match="do not compute what they did"):
            Space.from_pretrained(copy)
        assert Space.from_pretrained(copy, prove=False).species


GARBAGE = '''def _init_weights(self, module: nn.Module) -> None:
        """Spoiled."""
        for parameter in module.parameters(recurse=False):
            torch.nn.init.normal_(parameter)

    def _unused(self, module: nn.Module) -> None:
        """Do nothing: every'''


@pytest.mark.parametrize("spoiled", [False, True])
def test_missing_weights_are_refused_when_loaded(copy, spoiled):
    if spoiled:
        edit(
            copy,
            'def _init_weights(self, module: nn.Module) -> None:\n        """Do nothing: every',
            GARBAGE,
        )
        torch.testing.assert_close(tracks(load(copy)), expected(copy))
    rewrite(copy / "model.safetensors", lambda w: w.pop("pointwise.2.weight"))
    with pytest.raises(ValueError, match=r"missing_keys: (space\.)?pointwise.2.weight"):
        load(copy)


def test_left_over_weights_are_refused(copy):
    rewrite(copy / "model.safetensors", lambda w: w.update(extra=torch.zeros(2)))
    with pytest.raises(ValueError, match="unexpected_keys: extra"):
        load(copy)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_16_bits_prove_themselves(hub_folder, dtype):
    model = load(hub_folder, dtype=dtype)
    found, wanted = tracks(model), expected(hub_folder)
    assert found.dtype == torch.float32 and next(model.parameters()).dtype == dtype
    assert float((found - wanted).abs().max() / wanted.max()) < 0.1


def test_clean_loads_raise_no_alarm(hub_folder):
    for _ in range(10):
        load(hub_folder).prove()


@pytest.mark.slow
def test_two_hundred_clean_loads_raise_no_alarm(hub_folder):
    for count in range(200):
        load(hub_folder, dtype=(torch.float32, torch.bfloat16, torch.float16)[count % 3]).prove()


def test_it_is_saved_in_shards_and_pickled(hub_folder, tmp_path):
    model = load(hub_folder)
    model.save_pretrained(tmp_path / "again", max_shard_size="200KB")
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 2
    torch.testing.assert_close(tracks(load(tmp_path / "again")), tracks(model))
    with torch.no_grad():
        model.space.heads["finch"].bias += 1  # as fine-tuning would
    model.save_pretrained(shutil.copytree(hub_folder, tmp_path / "tuned"))
    torch.testing.assert_close(tracks(load(tmp_path / "tuned")), tracks(model))
    again = pickle.loads(pickle.dumps(model))
    torch.testing.assert_close(tracks(again), tracks(model))


def test_a_model_that_predicts_no_numbers_is_not_converted(exported, tmp_path):
    spoiled = shutil.copytree(exported, tmp_path / "spoiled")
    rewrite(spoiled / "model.safetensors", lambda w: w["heads.perch.bias"].fill_(torch.nan))
    with pytest.raises(UserError, match="what the model predicts is not finite: perch"):
        convert_for_hub(spoiled, tmp_path / "hub")
    assert list(tmp_path.iterdir()) == [spoiled]


def test_our_shards_load_in_both(exported, tmp_path):
    parts = shutil.copytree(exported, tmp_path / "parts")
    weights = load_file(parts / "model.safetensors")
    (parts / "model.safetensors").unlink()
    save_weights(weights, parts, shard_bytes=200_000)
    convert_for_hub(parts, tmp_path / "hub")
    assert len(list((tmp_path / "hub").glob("model-*.safetensors"))) > 2
    torch.testing.assert_close(tracks(load(tmp_path / "hub")), expected(exported))
    next((tmp_path / "hub").glob("model-*.safetensors")).unlink()
    with pytest.raises(Exception, match="no such file"):
        Space.from_pretrained(tmp_path / "hub")


def test_a_gradient_reaches_every_weight(hub_folder):
    model = load(hub_folder).train()
    model(LETTERS, species="finch").tracks.sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize("labels", [1, 3])
def test_sequences_are_classified(hub_folder, labels):
    kind = transformers.AutoModelForSequenceClassification
    model = load(hub_folder, kind, num_labels=labels)
    wanted = torch.tensor([0, labels - 1])
    found = model(["ACGTACGTA", "TTTTTTTTG"], species="perch", labels=wanted)
    assert found.logits.shape == (2, labels) and found.loss.isfinite()
    found.loss.backward()
    assert model.classifier.weight.grad.abs().sum() > 0
    assert model.space.stem[0].weight.grad.abs().sum() > 0


def test_what_it_is_asked_wrongly_is_said(hub_folder):
    model = load(hub_folder)
    with pytest.raises(ValueError, match="say which species is meant: finch, perch"):
        model(LETTERS)
    with pytest.raises(ValueError, match="'Z' is no DNA letter"):
        model("ACGZ", species="finch")
    with pytest.raises(ValueError, match="all of one length"):
        model.embed(["A", "AC"], species="finch")


def test_the_card_says_what_it_is(hub_folder):
    card = (hub_folder / "README.md").read_text()
    for part in (
        "library_name: transformers",
        "| finch | 5 | cage 2, tf_chip 2, dnase_atac 1 |",
        "10 central bins of 8 bp of each window of 128 bp",
        "Imported weights",
    ):
        assert part in card
    assert card.startswith("---\n") and card.count("\n---\n") == 1
