"""A folder of an encoder of tokens that transformers loads, without anything of ours."""

import ast
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_vocabularies import UNION

from spacescale.checkpoint.weight_files import save_weights
from spacescale.encoder_config import EncoderConfig
from spacescale.errors import UserError
from spacescale.files import write_json
from spacescale.genome.dna import decode, encode
from spacescale.hub.export import convert_for_hub
from spacescale.hub.push import check_folder, is_for_the_hub
from spacescale.hub.sources import ENCODER, modeling_source
from spacescale.mlm_config import MlmConfig
from spacescale.model.encoder import Encoder
from spacescale.model.encoder_export import load_encoder
from spacescale.model.exports import EXPORT_FORMAT, EXPORT_VERSION
from spacescale.tokens.bpe import train_bpe
from spacescale.tokens.vocabulary import FILE

transformers = pytest.importorskip("transformers", minversion="5")
CONFIG = EncoderConfig(vocab_size=len(UNION), dim=12, depth=2, heads=2, ffn_dim=16)
SEQUENCES = ["ACACGTNACACGTTTTACGT", "acacgt", "GGGGGGUUACACAC"]


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "export"
    (folder / "vocabulary").mkdir(parents=True)
    torch.manual_seed(0)
    save_weights(Encoder(CONFIG).state_dict(), folder)
    UNION.write(folder / "vocabulary" / FILE, {})
    mlm = MlmConfig(vocabulary_sha256=UNION.sha256).model_dump(mode="json", exclude={"vocabulary"})
    trained = {"step": 7, "metrics": {"valid/loss": 6.5}, "data_manifests": {"ant": "f00"}}
    payload = {
        "format": EXPORT_FORMAT,
        "format_version": EXPORT_VERSION,
        "model": CONFIG.model_dump(mode="json"),
        "mlm": mlm,
        "trained": trained | {"versions": {}},
    }
    write_json(folder / "config.json", payload)
    return folder


@pytest.fixture(scope="module")
def hub_folder(export):
    convert_for_hub(export, export.with_name("hub"))
    return export.with_name("hub")


@pytest.fixture
def copy(hub_folder, tmp_path):
    # Code is loaded once for each name of a folder.
    return shutil.copytree(hub_folder, tmp_path / tmp_path.name)


def load(folder, kind=transformers.AutoModel, **options):
    return kind.from_pretrained(folder, trust_remote_code=True, **options)


def rows_of(sequences, name):
    codes = [encode(text.upper().replace("U", "T")) for text in sequences]
    rows = [UNION.row(UNION.encode(one, name), name) for one in codes]
    return torch.from_numpy(UNION.pad(rows))


def test_both_kinds_compute_what_the_encoder_does(hub_folder, export):
    ours, model = load_encoder(export), load(hub_folder)
    masked = load(hub_folder, transformers.AutoModelForMaskedLM)
    row = model.encode(SEQUENCES, "bpe")
    attended = row["attention_mask"].bool()
    labels = torch.where(torch.arange(attended.shape[1]) == 3, row["input_ids"], -100)
    with torch.no_grad():
        expected = ours.states(row["input_ids"], attended)
        found = model(**row).last_hidden_state
        output = masked(**row, labels=labels)
        logits = ours(row["input_ids"], attended, attended)
    torch.testing.assert_close(found[attended], expected[attended])
    torch.testing.assert_close(output.logits[attended], logits)
    wanted = output.logits[:, 3].log_softmax(-1).gather(1, row["input_ids"][:, 3:4])
    assert output.loss.item() == pytest.approx(-wanted.mean().item(), rel=1e-5)
    assert model(row["input_ids"], return_dict=False)[0].shape == found.shape


@pytest.mark.parametrize("name", UNION.names)
def test_letters_become_the_rows_of_training(hub_folder, name):
    row = load(hub_folder).encode(SEQUENCES, name)
    expected = rows_of(SEQUENCES, name)
    assert row["input_ids"].tolist() == expected.tolist()
    assert row["attention_mask"].tolist() == (expected != UNION.pad_id).long().tolist()


def test_one_of_several_vocabularies_must_be_named(hub_folder):
    with pytest.raises(ValueError, match="vocabulary None: say which is meant: bpe, kmer"):
        load(hub_folder).encode("ACGT")


def test_words_merge_as_tokenizers_merges_them():
    from spacescale.hub.hub_encoder import merged

    random = np.random.default_rng(0)
    texts = [decode(random.integers(0, 4, 400).astype(np.uint8)) for _ in range(40)]
    bpe = train_bpe(texts, 200)
    ranks = {pair: rank for rank, pair in enumerate(bpe.merges)}
    assert len(ranks) > 150
    for text in (*texts, "A" * 37, "ACNNGT"):
        known = bpe.tokens.index
        ids = [known(w) if w in bpe.tokens else known("[UNK]") for w in merged(text, ranks)]
        assert ids == bpe.encode(text)


BARE = """
import sys
for name in ("spacescale", "deepspeed", "zarr", "tensorboard"):
    sys.modules[name] = None
import torch, transformers
model = transformers.AutoModelForMaskedLM.from_pretrained(sys.argv[1], trust_remote_code=True)
with torch.no_grad():
    torch.save(model(**model.encode(sys.argv[2], "kmer")).logits, sys.argv[3])
"""


@pytest.mark.long
def test_it_needs_nothing_of_ours(hub_folder, export, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    out, text = tmp_path / "logits.pt", "ACGTTGCATGCA"
    command = [sys.executable, "-I", "-c", BARE, str(hub_folder), text, str(out)]
    subprocess.run(command, check=True, capture_output=True)
    ids = rows_of([text], "kmer")
    everything = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        expected = load_encoder(export)(ids, everything, everything)
    torch.testing.assert_close(torch.load(out)[0], expected)


def test_the_code_imports_torch_and_transformers_alone():
    roots = set()
    for node in ast.walk(ast.parse(modeling_source(ENCODER))):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            roots.add((node.module or "").split(".")[0])
    assert roots - sys.stdlib_module_names == {"torch", "transformers", "safetensors"}


def change(folder, name, work):
    weights = load_file(folder / name)
    work(weights)
    save_file(weights, folder / name, metadata={"format": "pt"})


def test_what_was_tampered_with_refuses_to_load(copy):
    change(copy, "model.safetensors", lambda w: w["layers.1.feed_forward.gated.weight"].mul_(3))
    with pytest.raises(RuntimeError, match=r"does not compute what it did .*: logits: "):
        load(copy)
    assert load(copy, prove=False).encoder.config.depth == 2
    with pytest.raises(UserError, match="do not compute what they did when they were exported"):
        load_encoder(copy)


def test_missing_weights_are_refused(copy):
    change(copy, "model.safetensors", lambda w: w.pop("head.bias"))
    with pytest.raises(ValueError, match=r"missing_keys: (encoder\.)?head.bias"):
        load(copy)


def test_a_folder_is_whole_before_it_is_pushed(copy):
    assert is_for_the_hub(copy)
    check_folder(copy)
    text = (copy / "modeling_encoder.py").read_text()
    (copy / "modeling_encoder.py").write_text(text + "\n")
    with pytest.raises(UserError, match=r"modeling_encoder.py: sha256 .*: it was changed"):
        check_folder(copy)


def test_the_card_and_config_say_what_it_is(hub_folder):
    card = (hub_folder / "README.md").read_text()
    for part in ("library_name: transformers", "byte pairs and overlapping k-mers", UNION.sha256,
                 "| loss | 6.5 |", "trained for 7 steps"):  # fmt: skip
        assert part in card
    config = json.loads((hub_folder / "config.json").read_text())
    assert config["auto_map"]["AutoModelForMaskedLM"] == "modeling_encoder.TokenEncoderForMaskedLM"
    assert (hub_folder / "vocabulary/vocabulary.json").is_file()
