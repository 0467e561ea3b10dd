from dataclasses import replace

import numpy as np
import pytest
from small_models import BIN, SPAN, WINDOW, genome, predictor

from spacescale.errors import UserError
from spacescale.predict.variant_effects import EffectPredictor, Scoring
from spacescale.predict.vcf import Variant

BINS = SPAN // BIN
# The variant's base: in the middle of the central bin.
BEFORE = (WINDOW - SPAN) // 2 + BINS // 2 * BIN + BIN // 2
DNA = genome()


def letters(codes) -> str:
    return "".join("ACGTN"[code] for code in codes)


def variant(start: int, ref_length: int, alt: str) -> Variant:
    return Variant(1, "chr1", start, ".", letters(DNA.contigs["chr1"][start:][:ref_length]), alt)


def snv(start: int = 400) -> Variant:
    base = int(DNA.contigs["chr1"][start])
    return variant(start, 1, "ACGT"[(base + 1) % 4])


def effects(scoring: Scoring, model=None) -> EffectPredictor:
    return EffectPredictor(model or predictor(), DNA, scoring)


@pytest.mark.parametrize("start", [400, 2, 998])
def test_alleles_differ_in_the_variant_alone(start):
    ref, alt = effects(Scoring(shifts=(0, 3)))._windows(snv(start))
    assert ref.shape == alt.shape == (2, WINDOW)
    assert [np.flatnonzero(r != a).tolist() for r, a in zip(ref, alt, strict=True)] == [
        [BEFORE],
        [BEFORE - 3],
    ]
    inside = slice(max(BEFORE - start, 0), BEFORE - start + 1000)
    assert letters(ref[0][inside]) in letters(DNA.contigs["chr1"])


@pytest.mark.parametrize(
    ("ref_length", "alt"), [(1, "ACGTTG"), (9, "A"), (4, "GG"), (1, "T" * 200)]
)
def test_an_indel_keeps_either_flank_in_its_place(ref_length, alt):
    found = variant(400, ref_length, alt)
    ref, (left, right) = effects(Scoring(shifts=(0,)))._windows(found)
    assert ref.shape == (2, WINDOW) and (ref[0] == ref[1]).all()
    whole = letters(DNA.contigs["chr1"])
    changed = whole[:400] + alt + whole[found.end :]
    assert letters(left) == changed[400 - BEFORE :][:WINDOW]
    end = 400 - BEFORE + WINDOW + len(alt) - ref_length  # of the same base behind the variant
    assert letters(right) == changed[end - WINDOW : end]
    assert (left[:BEFORE] == ref[0][:BEFORE]).all()
    behind = WINDOW - BEFORE - ref_length
    assert (right[-behind:] == ref[0][-behind:]).all()


@pytest.mark.parametrize("found", [snv(), variant(400, 3, "A")])
def test_scores_are_means_over_strands_and_shifts_of_what_their_names_say(found):
    scoring = Scoring(
        scores=("log2_ratio", "sum", "log_sum", "d2", "log_d2"),
        unit="means", pseudocount=0.5, mask_bp=17, shifts=(0, 2),
    )  # fmt: skip
    model = predictor()
    scorer = effects(scoring, model)
    (effect,) = scorer.score([found])
    mask = slice(BINS // 2 - 1, BINS // 2 + 2)  # 8 bp to either side of the middle of a bin of 8
    ref, alt = (
        np.concatenate(
            [model.predict(w, "means", strand)[:, mask] for strand in ("forward", "reverse")]
        )
        for w in scorer._windows(found)
    )
    assert effect.averages == len(ref) == (4 if len(found.ref) == 1 else 8)
    c = 0.5
    expected = {
        "log2_ratio": np.log2((alt.sum(1) + c) / (ref.sum(1) + c)),
        "sum": (alt - ref).sum(1),
        "log_sum": np.log2((alt + c) / (ref + c)).sum(1),
        "d2": np.sqrt(((alt - ref) ** 2).sum(1)),
        "log_d2": np.sqrt((np.log2((alt + c) / (ref + c)) ** 2).sum(1)),
    }
    for score, by_average in expected.items():
        np.testing.assert_allclose(effect.mean[score], by_average.mean(0), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(effect.spread[score], by_average.std(0), rtol=1e-2, atol=1e-5)
    np.testing.assert_allclose(effect.ref, ref.sum(1).mean(0), rtol=1e-5)
    np.testing.assert_allclose(effect.alt, alt.sum(1).mean(0), rtol=1e-5)
    assert np.abs(effect.mean["sum"]).min() > 1e-6


def test_variants_are_scored_alike_in_any_batch():
    scoring = Scoring(unit="means")
    found = [snv(400), variant(500, 1, "ACG"), snv(20)]
    together = effects(scoring).score(found)
    for one, effect in zip(found, together, strict=True):
        (alone,) = effects(scoring).score([one])
        np.testing.assert_allclose(
            alone.mean["log2_ratio"], effect.mean["log2_ratio"], rtol=1e-3, atol=1e-6
        )


def test_coverage_below_0_is_scored_by_its_magnitude():
    model = predictor()
    model.tracks[0] = replace(model.tracks[0], scale=-1.0)
    (effect,) = effects(Scoring(unit="coverage"), model).score([snv()])
    (plain,) = effects(Scoring(unit="stored")).score([snv()])
    for found, expected in (
        (effect.ref, plain.ref),
        (effect.mean["log2_ratio"], plain.mean["log2_ratio"]),
    ):
        assert found[0] == pytest.approx(expected[0], rel=1e-4)


def test_only_the_tracks_asked_for_are_scored():
    (some,) = EffectPredictor(predictor(), DNA, Scoring(unit="means"), [3, 1]).score([snv()])
    (everything,) = effects(Scoring(unit="means")).score([snv()])
    np.testing.assert_allclose(some.ref, everything.ref[[3, 1]], rtol=1e-5)


@pytest.mark.parametrize("found", [snv(), variant(400, 3, "A")])
@pytest.mark.parametrize("layer", ["stem", "transformer.0", "pointwise"])
def test_distances_compare_features_around_the_variant(found, layer):
    names = ("dot", "cosine", "euclidean", "manhattan")
    scoring = Scoring(scores=names, mask_bp=17, shifts=(0, 2), layer=layer)
    model = predictor()
    scorer = effects(scoring, model)
    (effect,) = scorer.score([found])

    def features(windows):
        reverse = 3 - windows[:, ::-1]
        forward, turned = model.embed(windows, layer), model.embed(reverse, layer)[:, ::-1]
        width = WINDOW // forward.shape[1]
        touched = slice((BEFORE - 8) // width, (BEFORE + 8) // width + 1)
        return np.concatenate([forward[:, touched].mean(1), turned[:, touched].mean(1)])

    ref, alt = (features(windows) for windows in scorer._windows(found))
    norms = np.linalg.norm(ref, axis=1) * np.linalg.norm(alt, axis=1)
    expected = {
        "cosine": 1 - (ref * alt).sum(1) / norms,
        "euclidean": np.linalg.norm(alt - ref, axis=1),
        "manhattan": np.abs(alt - ref).sum(1),
        "dot": (ref * alt).sum(1),
    }
    assert effect.averages == len(ref) and effect.ref.shape == effect.alt.shape == (0,)
    for score, by_average in expected.items():
        assert effect.mean[score].shape == (1,)
        np.testing.assert_allclose(effect.mean[score], by_average.mean(), rtol=1e-2, atol=1e-6)
        np.testing.assert_allclose(effect.spread[score], by_average.std(), rtol=3e-2, atol=1e-6)
    assert effect.mean["euclidean"][0] > 1e-4


def test_distances_of_equal_alleles_are_0():
    same = variant(400, 1, letters(DNA.contigs["chr1"][400:401]))
    (effect,) = effects(Scoring(scores=("cosine", "euclidean", "manhattan"))).score([same])
    assert [effect.mean[s][0] for s in effect.mean] == pytest.approx([0, 0, 0], abs=1e-12)


def test_an_unknown_layer_is_refused():
    with pytest.raises(UserError, match=r"layer 'pointwis': this model has stem, .*, pointwise"):
        effects(Scoring(scores=("cosine",), layer="pointwis"))


@pytest.mark.parametrize(("mask_bp", "bins"), [(8, 1), (9, 2), (10, 3), (24, 3), (25, 4)])
def test_a_mask_is_as_wide_as_asked(mask_bp, bins):
    """The variant lies on the fifth base of a bin of eight: 8 bp around it are that bin."""
    masks = effects(Scoring(unit="means", mask_bp=mask_bp))._masks
    assert set(masks.sum(0)) == {bins}


def test_masks_follow_the_assay():
    """Of a model whose span is longer than either mask."""
    model = predictor("perch", target_length=400, seq_length=3408)
    masks = effects(Scoring(unit="means"), model)._masks
    by_assay = {
        track.assay: int((masks[:, row] == 1).sum()) for row, track in enumerate(model.tracks)
    }
    middle = 8 // 2
    bins = {half: 2 * -(-(half - middle) // 8) + 1 for half in (250, 1000)}
    assert by_assay == {
        "dnase_atac": bins[250], "cage": bins[250], "histone_chip": bins[1000],
    }  # fmt: skip
