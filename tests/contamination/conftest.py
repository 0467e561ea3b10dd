"""Two small species, and a run that read some of their windows."""

from pathlib import Path

import pytest
from made_up_runs import SEEDS, checkpoint_of, genome_of
from small_datasets import write_small_dataset


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A folder of both data sets."""
    folder = tmp_path_factory.mktemp("small")
    for name, seed in SEEDS.items():
        write_small_dataset(folder / name, genome=genome_of(seed))
    return folder


@pytest.fixture
def run(data, tmp_path) -> Path:
    """A run of three steps, 12 windows, six of each species."""
    checkpoint_of(tmp_path / "run", data, 3)
    return tmp_path / "run"
