"""By which scores checkpoints may be told apart: those that validation will give."""

from types import SimpleNamespace
from typing import Any

from small_genomes import small_genome
from tiny_models import tiny_config

from spacescale.objectives.bases_validation import base_score_names
from spacescale.objectives.profile_validation import score_names


def data(**num_windows: int) -> Any:
    return SimpleNamespace(manifest=SimpleNamespace(num_windows=num_windows))


def test_a_species_without_validation_windows_has_no_scores_of_tracks():
    read = {"finch": data(train=4, valid=2), "perch": data(train=4)}
    names = score_names(tiny_config(), read)
    assert {"valid/pearson_log1p", "valid/loss", "valid/loss/finch"} <= set(names)
    assert not any("perch" in name for name in names)


def test_a_species_of_which_nothing_is_held_out_has_no_scores_of_bases(tmp_path):
    genome = small_genome(tmp_path)
    longest = int((genome.stretches("valid").end - genome.stretches("valid").start).max())
    names = base_score_names({"tiny": genome}, longest)
    assert {"valid/bases/perplexity", "valid/bases/perplexity/tiny", "valid/loss/tiny"} <= set(
        names
    )
    too_long = base_score_names({"tiny": genome}, longest + 1)
    assert "valid/bases/perplexity" in too_long
    assert not any("tiny" in name for name in too_long)
