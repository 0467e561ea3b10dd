"""By which scores checkpoints may be told apart: those that validation will give."""

from types import SimpleNamespace
from typing import Any

import pytest
from small_genomes import small_genome
from small_vocabularies import UNION

from spacescale.errors import UserError
from spacescale.objectives import objective_of
from spacescale.objectives.bases_validation import base_score_names
from spacescale.objectives.profile_validation import score_names
from spacescale.overrides import build_config
from spacescale.space_config import ModelConfig


def data(**num_windows: int) -> Any:
    return SimpleNamespace(manifest=SimpleNamespace(num_windows=num_windows))


def test_a_species_without_validation_windows_has_no_scores_of_tracks():
    read = {"finch": data(train=4, valid=2), "perch": data(train=4)}
    model = ModelConfig(species={"finch": ("cage",), "perch": ("cage",)})
    names = score_names(model, read)
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


def test_a_species_of_which_nothing_is_held_out_has_no_scores_of_tokens(tmp_path):
    genome = small_genome(tmp_path, all_train=True, valid_chroms=(), test_chroms=())
    UNION.write(tmp_path / "vocabulary.json", {})
    settings = [f"mlm.vocabulary={tmp_path}", "run.best_metric=valid/loss/tiny"]
    objective = objective_of(build_config("genomics_fm_tiny", settings))
    with pytest.raises(UserError, match=r"best_metric=valid/loss/tiny.* there are: .*valid/loss"):
        objective.complete({"tiny": genome})
