"""The tiny model of the model's tests, exported."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

# Read when transformers is imported: where it copies a folder's code to.
CACHE = tempfile.TemporaryDirectory(prefix="hf-")
os.environ |= {"HF_HOME": CACHE.name, "HF_HUB_OFFLINE": "1"}

sys.path += [str(Path(__file__).parents[1] / "model"), str(Path(__file__).parents[1] / "predict")]


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """An export of the tiny model, as of imported weights; tests must not change it."""
    from small_models import write_export

    return write_export(tmp_path_factory.mktemp("exported") / "tiny")


@pytest.fixture(scope="session")
def hub_folder(exported, tmp_path_factory):
    """The same as a folder for the Hub; tests must not change it."""
    from spacescale.hub.export import convert_for_hub

    folder = tmp_path_factory.mktemp("hub") / "tiny"
    convert_for_hub(exported, folder)
    return folder
