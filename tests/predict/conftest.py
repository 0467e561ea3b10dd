"""The helpers of this folder, and those of the model's tests."""

import sys
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "model")]


@pytest.fixture
def fasta(tmp_path):
    """The genome of small_models as a file."""
    from small_models import genome

    path = tmp_path / "genome.fa"
    contigs = genome().contigs.items()
    path.write_text(
        "".join(f">{n}\n{''.join('ACGTN'[c] for c in codes)}\n" for n, codes in contigs)
    )
    return path
