"""Folders that were not downloaded as a whole: one line, with the file, by either loader."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from spacescale.checkpoint.weight_files import save_weights
from spacescale.errors import UserError
from spacescale.model.space import Space

transformers = pytest.importorskip("transformers", minversion="5")


@pytest.fixture(scope="module")
def sharded(hub_folder, tmp_path_factory):
    """The folder with its weights in several files; tests must not change it."""
    folder = shutil.copytree(hub_folder, tmp_path_factory.mktemp("sharded") / "sharded")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_weights(weights, folder, shard_bytes=200_000)
    return folder


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


SHARD = "model-00002-of-*.safetensors"
CASES = {
    "weights": ("model.safetensors", cut, True),
    "empty weights": ("model.safetensors", lambda path: path.write_bytes(b""), True),
    "no weights": ("model.safetensors", lambda path: path.unlink(), True),
    "proof": ("proof.safetensors", cut, True),
    "shard": (SHARD, cut, True),
    "no shard": (SHARD, lambda path: path.unlink(), True),
    "config": ("config.json", cut, True),
    "no code": ("modeling_space.py", lambda path: path.unlink(), False),
    "no configuration's code": ("configuration_space.py", lambda path: path.unlink(), False),
}


@pytest.mark.parametrize("name", CASES)
def test_the_file_that_is_not_whole_is_named(name, hub_folder, sharded, tmp_path):
    pattern, spoil, ours_reads_it = CASES[name]
    source = sharded if "shard" in name else hub_folder
    folder = shutil.copytree(source, tmp_path / tmp_path.name)
    (path,) = folder.glob(pattern)
    spoil(path)
    with pytest.raises((ValueError, OSError), match=path.name) as theirs:
        transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert "\n" not in str(theirs.value)
    if ours_reads_it:
        with pytest.raises(UserError, match=str(path)) as ours:
            Space.from_pretrained(folder)
        assert "\n" not in str(ours.value)
    else:
        assert Space.from_pretrained(folder).species


def test_an_index_that_names_what_is_not_there(sharded, tmp_path):
    folder = shutil.copytree(sharded, tmp_path / "index")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    lost = next(iter(index["weight_map"]))
    file = index["weight_map"].pop(lost)
    index["weight_map"] = {k: v for k, v in index["weight_map"].items() if v != file}
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match="missing_keys"):
        transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
    with pytest.raises(UserError, match=f"{folder}: missing "):
        Space.from_pretrained(folder)


def test_a_name_without_network_and_copy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^lab/none: no such folder, .* no copy is here$"):
        Space.from_pretrained("lab/none")
