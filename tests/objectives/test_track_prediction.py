import numpy as np
import pytest
import torch
from torch import Tensor

from spacescale.dataset.augment import flip
from spacescale.dataset.batch import SpeciesBatch
from spacescale.metrics.track_scale import TrackScale
from spacescale.model.space import SpaceOutput
from spacescale.objectives.track_prediction import (
    TrackScores,
    predict_windows,
    score_split,
)

BINS, BIN_SIZE, TRACKS = 6, 4, 3
STRAND_PAIR = np.array([1, 0, 2])
MEANS = torch.tensor([0.5, 2.0, 1.0])
SCALE = TrackScale("mean", MEANS)


def predict(codes: dict[str, Tensor]) -> SpaceOutput:
    """Some function of the bases of each bin that knows nothing of strands."""
    weights = torch.randn(BIN_SIZE * 5, TRACKS, generator=torch.Generator().manual_seed(0))
    found = {}
    for name, part in codes.items():
        bases = torch.nn.functional.one_hot(part.long(), 5).float().view(len(part), BINS, -1)
        found[name] = (bases @ weights * 0.3).exp()
    return SpaceOutput(found, {}, {}, [], None)


def some_batch(batch: int, seed: int = 0) -> SpeciesBatch:
    generator = torch.Generator().manual_seed(seed)
    return SpeciesBatch(
        torch.randint(0, 5, (batch, BINS * BIN_SIZE), generator=generator, dtype=torch.uint8),
        torch.rand(batch, BINS, TRACKS, generator=generator).half() * 4,
        torch.arange(batch),
    )


def other_strand(batch: SpeciesBatch) -> SpeciesBatch:
    flipped = [
        flip(c, t, STRAND_PAIR)
        for c, t in zip(batch.codes.numpy(), batch.targets.numpy(), strict=True)
    ]
    codes, targets = (torch.from_numpy(np.stack(part)) for part in zip(*flipped, strict=True))
    return SpeciesBatch(codes, targets, batch.rows)


def correlations(prediction: Tensor, target: Tensor) -> list[float]:
    x, y = (part.double().flatten(0, 1).numpy() for part in (prediction, target))
    return [float(np.corrcoef(x[:, t], y[:, t])[0, 1]) for t in range(TRACKS)]


def test_one_strand_is_the_prediction_itself():
    batch = some_batch(2)
    plain = TrackScale("mean", MEANS)
    prediction, output = predict_windows(predict, "finch", batch, plain)
    assert torch.equal(prediction, predict({"finch": batch.codes}).prediction["finch"])
    assert torch.equal(prediction, output.prediction["finch"])


def test_both_strands_are_averaged_in_the_order_of_the_first():
    batch = some_batch(2)
    found, _ = predict_windows(predict, "finch", batch, SCALE, STRAND_PAIR)
    forward = predict({"finch": batch.codes}).prediction["finch"]
    backward = predict({"finch": other_strand(batch).codes}).prediction["finch"]
    for n in range(BINS):
        for t, opposite in enumerate(STRAND_PAIR):
            stored = backward[:, BINS - 1 - n, opposite] * MEANS[opposite]
            expected = (forward[:, n, t] + stored / MEANS[t]) / 2
            torch.testing.assert_close(found[:, n, t], expected)


def test_the_average_of_both_strands_does_not_depend_on_the_strand_given():
    batch = some_batch(2)
    here, _ = predict_windows(predict, "finch", batch, SCALE, STRAND_PAIR)
    there, _ = predict_windows(predict, "finch", other_strand(batch), SCALE, STRAND_PAIR)
    torch.testing.assert_close((there * MEANS).flip(1)[..., STRAND_PAIR] / MEANS, here)
    one_strand = predict({"finch": batch.codes}).prediction["finch"]
    assert (here - one_strand).abs().max() > 0.01


@pytest.mark.parametrize("trained_on", ["mean", "log1p", "none"])
def test_scores_equal_numpy_over_all_windows(trained_on):
    batches = [some_batch(2, seed=1), some_batch(1, seed=2)]
    scores = score_split(
        predict, "finch", ((batch, None) for batch in batches), TrackScale(trained_on, MEANS)
    )
    prediction = torch.cat([predict({"finch": b.codes}).prediction["finch"] for b in batches])
    target = torch.cat([b.targets.float() for b in batches]) / MEANS
    if trained_on == "none":
        prediction = prediction / MEANS
    if trained_on == "log1p":
        prediction = prediction.double().exp().sub(1).float()
    found = scores.raw.pearson().tolist()
    assert found == pytest.approx(correlations(prediction, target), abs=1e-9)
    expected = correlations(prediction.log1p(), target.log1p())
    assert scores.log1p.pearson().tolist() == pytest.approx(expected, abs=1e-9)


def test_windows_of_weight_zero_do_not_count():
    batch = some_batch(3)
    batch.codes[2], batch.targets[2] = 0, torch.nan
    weight = torch.tensor([1.0, 1.0, 0.0])
    padded = score_split(predict, "finch", [(batch, weight)], SCALE)
    kept = SpeciesBatch(batch.codes[:2], batch.targets[:2], batch.rows[:2])
    alone = score_split(predict, "finch", [(kept, None)], SCALE)
    torch.testing.assert_close(padded.tensor(), alone.tensor())
    assert torch.isfinite(padded.log1p.pearson()).all()


def test_scores_of_parts_add_up_to_those_of_the_whole():
    parts = [score_split(predict, "finch", [(some_batch(2, seed), None)], SCALE) for seed in (1, 2)]
    whole = score_split(predict, "finch", [(some_batch(2, seed), None) for seed in (1, 2)], SCALE)
    added = TrackScores.from_tensor(parts[0].tensor() + parts[1].tensor())
    torch.testing.assert_close(added.raw.pearson(), whole.raw.pearson())
    torch.testing.assert_close(added.log1p.pearson(), whole.log1p.pearson())


def test_negative_values_count_as_zero_on_the_log_scale():
    scores, floored = TrackScores(1), TrackScores(1)
    target = torch.tensor([[[1.0], [2.0], [4.0]]])
    scores.update(torch.tensor([[[-5.0], [1.0], [3.0]]]), target)
    floored.update(torch.tensor([[[0.0], [1.0], [3.0]]]), target)
    assert torch.equal(scores.log1p.pearson(), floored.log1p.pearson())
    assert not torch.equal(scores.raw.pearson(), floored.raw.pearson())


def test_observers_see_every_batch_in_track_means():
    seen = []
    batches = [some_batch(2, seed=1), some_batch(1, seed=2)]
    score_split(
        predict,
        "finch",
        [(batch, None) for batch in batches],
        TrackScale("none", MEANS),
        observe=lambda batch, prediction, output: seen.append((batch, prediction, output)),
    )
    assert [batch for batch, _, _ in seen] == batches
    for batch, prediction, output in seen:
        torch.testing.assert_close(prediction, output.prediction["finch"] / MEANS)
        assert len(prediction) == len(batch.codes)


def test_what_has_no_pearson_in_log1p_says_why():
    targets = torch.rand(2, 5, 4)
    targets[..., 1] = 3.0
    targets[..., 2] *= -1
    targets[..., 3] = torch.nan
    scores = TrackScores(4)
    scores.update(torch.rand(2, 5, 4), targets)
    assert scores.left_out() == ["", "constant", "undefined in log1p", "not measured"]
