import sys
from types import SimpleNamespace

import pytest

from spacescale.errors import UserError
from spacescale.model import Space
from spacescale.model.exports import local_folder


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub that has lab/model in a folder, and remembers what it was asked."""
    asked = []

    def snapshot_download(name, revision):
        asked.append((name, revision))
        if name != "lab/model":
            raise OSError(f"401 for {name}\nand more")
        return str(tmp_path / "snapshot")

    monkeypatch.setitem(
        sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download)
    )
    monkeypatch.chdir(tmp_path)
    return asked


def test_names_of_the_hub_become_folders(hub, tmp_path):
    assert local_folder("lab/model", "v1") == tmp_path / "snapshot"
    assert hub == [("lab/model", "v1")]
    with pytest.raises(
        UserError, match=r"^lab/other: no such folder, and not from the Hub: 401 for lab/other$"
    ):
        Space.from_pretrained("lab/other")


@pytest.mark.parametrize("name", ["here/model", "plain", "/a/b", "a/b/c"])
def test_what_is_no_name_or_lies_here_is_not_asked_for(hub, tmp_path, name):
    (tmp_path / "here").mkdir()
    assert str(local_folder(name)) == name and hub == []


def test_without_the_library_it_is_named(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install .spacescale\[hub\]"):
        local_folder("lab/model")
