"""Files and folders are whole or not there; what file managers leave is told from the rest."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import PurePath

import pytest

from spacescale.files import (
    files_below,
    is_stray,
    new_folder,
    restore,
    size_below,
    stray_files,
    write_json,
    write_text,
)

STRAY = (".DS_Store", "._zarr.json", "Thumbs.db", "desktop.ini", "@eaDir/a", "Icon\r", ".nfs00a1")


@pytest.mark.parametrize("name", STRAY)
def test_stray_files_are_known_at_any_depth(name):
    assert is_stray(PurePath(name)) and is_stray(PurePath("targets/c") / name)


@pytest.mark.parametrize("name", ["zarr.json", ".zarr.json.new", "icon.png", "nfs.bed", "a._b"])
def test_other_files_are_not(name):
    assert not is_stray(PurePath(name))


def test_a_folder_of_both(tmp_path):
    for name in ("a/b.txt", "c", *STRAY):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert files_below(tmp_path) == [tmp_path / "a/b.txt", tmp_path / "c"]
    assert set(stray_files(tmp_path)) == {tmp_path / name for name in STRAY}


def test_a_kill_between_the_two_renames_of_a_replaced_folder_loses_nothing(tmp_path):
    target = tmp_path / "yeast"
    target.mkdir()
    (target / "data").write_text("old")
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from spacescale import files\n"
        "rename = Path.rename\n"
        "def once(self, to):\n"
        "    rename(self, to); os.kill(os.getpid(), signal.SIGKILL)\n"
        "Path.rename = once\n"
        "with files.new_folder(Path(sys.argv[1]), replace=True) as folder:\n"
        "    (folder / 'data').write_text('new')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert done.returncode == -signal.SIGKILL and not target.exists()
    restore(target)
    assert (target / "data").read_text() == "old"
    with new_folder(target, replace=True) as folder:
        (folder / "data").write_text("new")
    assert (target / "data").read_text() == "new"
    assert not list(tmp_path.glob(".yeast.old"))


def test_a_text_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path, "text")
    assert json.loads(path.read_text()) == {"a": 1} and files_below(tmp_path) == [path]


def test_the_size_of_a_folder_of_which_parts_vanish_meanwhile(tmp_path, monkeypatch):
    for name in ("a/b/one", "a/two", "three"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    assert size_below(tmp_path) == 15
    walk = os.walk

    def vanishing(folder):
        for found in walk(folder):
            shutil.rmtree(tmp_path / "a", ignore_errors=True)
            yield found

    monkeypatch.setattr(os, "walk", vanishing)
    assert size_below(tmp_path) == 5
    assert size_below(tmp_path / "gone") == 0
