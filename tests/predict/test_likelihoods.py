"""Scores of how likely a variant's bases are, held against the softmax written out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import genome, predictor, trained
from test_effect_tables import SCORING, read_tsv, row
from test_hybrid import hybrid
from test_variant_effects import BEFORE, letters, snv, variant
from test_vcf import vcf_of
from tiny_models import SPECIES

from spacescale.errors import UserError
from spacescale.files import read_json
from spacescale.genome.dna import HIDDEN
from spacescale.model.hybrid import Hidden
from spacescale.predict.effect_tables import score_variants
from spacescale.predict.predictor import Predictor
from spacescale.predict.variant_effects import EffectPredictor, Scoring

DNA = genome()
BOTH = ("llr", "llr_unmasked")


def model(of="finch", **changes) -> Predictor:
    """Of one species of a model that predicts hidden bases, three windows at a time."""
    known = replace(trained(), model=hybrid(**changes))
    return Predictor(known, of, "cpu", batch_size=3)


def written_out(space, codes: np.ndarray, place: int, hide: bool) -> np.ndarray:
    """Log probabilities (4,) of the base at a place of codes (L,), by a window of its own."""
    given = codes.copy()
    if hide:
        given[place] = HIDDEN
    hidden = {"finch": Hidden((0,), torch.tensor([place]), 1, 0)}
    with torch.no_grad():
        logits = space({"finch": torch.from_numpy(given)[None]}, hidden).base_logits["finch"]
    odds = np.exp(logits[0].double().numpy())
    return np.log(odds / odds.sum())


@pytest.mark.parametrize("score, hide", [("llr", True), ("llr_unmasked", False)])
def test_likelihoods_are_means_over_strands_and_shifts(score, hide):
    shifts, scored = (0, 2), model()
    scorer = EffectPredictor(scored, DNA, Scoring(scores=(score,), shifts=shifts))
    found = [snv(400), variant(500, 3, "A"), snv(998)]
    effects = scorer.score(found)
    for one, effect in zip(found, effects, strict=True):
        if not one.is_snv:
            assert np.isnan(effect.mean[score]).all() and effect.averages == 8
            continue
        ref, alt = ("ACGT".index(base) for base in (one.ref, one.alt))
        expected = []
        for shift, codes in zip(shifts, scorer._windows(one)[0], strict=True):
            place = BEFORE - shift
            assert letters(codes)[place] == one.ref
            forward = written_out(scored.model, codes, place, hide)
            turned = np.where(codes < 4, 3 - codes, codes)[::-1].astype(np.uint8)
            reverse = written_out(scored.model, turned, len(codes) - 1 - place, hide)
            expected += [forward[alt] - forward[ref], reverse[3 - alt] - reverse[3 - ref]]
        assert np.ptp(expected) > 1e-3
        assert effect.averages == 4 and effect.mean[score].shape == (1,)
        assert effect.mean[score][0] == pytest.approx(np.mean(expected), rel=1e-3, abs=1e-6)
        assert effect.spread[score][0] == pytest.approx(np.std(expected), rel=1e-3, abs=1e-6)


def test_both_strands_are_the_mean_of_either():
    scored = model()
    codes, places = DNA.contigs["chr1"][:512].reshape(4, 128), np.array([60, 64, 1, 127])
    forward, reverse, both = (
        scored.base_log_probabilities(codes, places, strands, True)
        for strands in ("forward", "reverse", "both")
    )
    np.testing.assert_allclose(both, (forward + reverse) / 2, rtol=1e-6)
    np.testing.assert_allclose(np.exp(forward).sum(1), 1, rtol=1e-5)
    assert np.abs(forward - reverse).max() > 1e-3


@pytest.fixture
def vcf(tmp_path):
    return vcf_of(tmp_path / "some.vcf", row("chr1", 500), row("chr1", 600, alt="ACGT"))


def test_a_table_has_them_beside_scores_of_tracks(vcf, fasta, tmp_path):
    scoring = replace(SCORING, scores=("log2_ratio", "cosine", *BOTH))
    found = score_variants(model(), vcf, fasta, tmp_path / "all.tsv", scoring, ["cage"])
    assert (found.scored, found.unlikely) == (2, 1)
    rows = read_tsv(tmp_path / "all.tsv")
    assert len(rows) == 4 and [r["llr"] == "nan" for r in rows] == [False, False, True, True]
    assert rows[0]["llr"] == rows[1]["llr"] != rows[0]["llr_unmasked"]
    assert rows[0]["log2_ratio"] != rows[1]["log2_ratio"]
    assert all(r["cosine"] != "nan" and float(r["ref_sum"]) > 0 for r in rows)
    record = read_json(tmp_path / "all.json")
    assert record["without_likelihood"] == 1 and "SNVs alone" in record["scores"]["llr"]


def test_they_need_no_tracks(vcf, fasta, tmp_path):
    scored = model("wren", species={"wren": (), **SPECIES})
    scoring = replace(SCORING, scores=BOTH)
    score_variants(scored, vcf, fasta, tmp_path / "llr.tsv", scoring)
    rows = read_tsv(tmp_path / "llr.tsv")
    assert list(rows[0])[5:] == [
        "species", "llr", "llr_sd", "llr_unmasked", "llr_unmasked_sd", "averages",
    ]  # fmt: skip
    assert len(rows) == 2 and float(rows[0]["llr"])


def test_weights_without_the_head_are_refused(vcf, fasta, tmp_path):
    scoring = replace(SCORING, scores=BOTH)
    with pytest.raises(UserError, match=r"no head of hidden bases.*--with-bases"):
        score_variants(predictor(), vcf, fasta, tmp_path / "llr.tsv", scoring)
    with pytest.raises(UserError, match="--tracks cage: llr, llr_unmasked do not look at tracks"):
        score_variants(model(), vcf, fasta, tmp_path / "llr.tsv", scoring, ["cage"])
    assert not (tmp_path / "llr.tsv").exists()
