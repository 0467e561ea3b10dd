"""Maps of probes through a frozen trunk, and how they are held against each other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import BIN, WINDOW, genome, trained
from small_tasks import examples
from torch import nn

from spacescale.errors import UserError
from spacescale.genome.dna import N, encode, reverse_complement
from spacescale.genome.open_genome import OpenGenome
from spacescale.probing.attribution import (
    Explained,
    agreements,
    attribution_maps,
    explain_network,
    explain_probe,
    global_importance,
    gradient_map,
    importance_lines,
    mutation_map,
    one_number,
    pearson_of,
)
from spacescale.probing.features import Trunk, write_features
from spacescale.probing.feeding import Feeder
from spacescale.tasks.task import Locus

CPU = torch.device("cpu")


def additive(weights):
    """A score that adds a weight (4, L) for each base; what every map has to find."""

    def score(sequences):
        if not sequences.is_floating_point():
            sequences = torch.eye(N + 1)[sequences.long()][..., :N].transpose(1, 2)
        return (sequences * weights).sum((1, 2))

    return score


def test_maps_of_an_additive_score_are_its_weights_about_their_mean():
    weights, codes = torch.randn(4, 9), encode("ACGTNGATT")
    own = np.array([weights[base, i] if base < N else 0 for i, base in enumerate(codes)])
    mean = np.where(codes == N, 0, weights.mean(0))
    found = gradient_map(additive(weights), codes)
    np.testing.assert_allclose(found, own - mean, atol=1e-6)
    # Less the mean of the three others it is 4/3 of that.
    np.testing.assert_allclose(
        mutation_map(additive(weights), codes), (own - mean) * 4 / 3, atol=1e-5
    )


def test_of_classes_log_odds_are_explained():
    outputs = torch.randn(3, 2)
    odds = outputs.softmax(1)[:, 1] / outputs.softmax(1)[:, 0]
    torch.testing.assert_close(one_number("classes", outputs), odds.log())
    torch.testing.assert_close(one_number("values", outputs), outputs.mean(1))


class First(nn.Module):
    """The sum of the features, each position with a weight of its own if there are any."""

    def forward(self, x):
        if x.ndim == 3:
            x = x * torch.arange(1, x.shape[2] + 1)
        return x.flatten(1).sum(1, keepdim=True)


GENOME = OpenGenome(Path("genome.fa"), genome().contigs)


@pytest.mark.parametrize("feed", ["alone", "flanked", "shuffled", "genome"])
@pytest.mark.parametrize("by_position", [False, True])
@pytest.mark.parametrize("as_is", [61, None])
def test_what_is_explained_is_what_the_head_learnt_from(tmp_path, feed, by_position, as_is):
    found, _ = examples(4, seed=3, low=61, high=61)
    if feed == "genome":
        loci = tuple(Locus("chr1", start, start + 61, start > 200) for start in (9, 99, 300, 939))
        codes = [GENOME.contigs["chr1"][one.start : one.end] for one in loci]
        both = zip(codes, loci, strict=True)
        codes = [reverse_complement(c) if one.minus else c for c, one in both]
        found = replace(found, codes=codes, loci=loci)
    space = trained().model.eval()
    trunk = Trunk(space, "finch", "stem", Feeder.of(feed, WINDOW, BIN, found, 2, GENOME), CPU)
    trunk = trunk.of_split(found)
    positions, means = write_features(trunk, found, as_is, tmp_path / "f.npy")
    inputs = positions if by_position else means
    explained = explain_probe("probe", "values", trunk, First(), by_position, 61, as_is)
    wanted = First()(inputs.batch(np.array([2])))[0]
    codes = torch.from_numpy(found.codes[2])[None]
    score = explained.score_of(61, 2)
    torch.testing.assert_close(score(codes), wanted, rtol=5e-3, atol=5e-3)
    changed = codes.clone()
    changed[0, 30] = (changed[0, 30] + 1) % 4
    difference = mutation_map(score, found.codes[2])
    assert np.abs(difference).max() > 0 and score(changed) != score(codes)
    assert np.isfinite(gradient_map(score, found.codes[2])).all()


def test_shorter_sequences_are_filled_up_as_in_training():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4 * 10, 1))
    score = explain_network("cnn", "values", network, 10, CPU).score_of(6, 0)
    codes = torch.from_numpy(encode("ACGTAC"))[None]
    bases = torch.zeros(1, 4, 10)
    bases[0, codes[0].long(), torch.arange(6)] = 1
    torch.testing.assert_close(score(codes), network(bases)[:, 0])


def scorer(name, weights):
    return Explained(name, lambda length, row: additive(weights[:, :length]))


def test_agreement_is_pearson_per_sequence_and_its_mean():
    found, _ = examples(12, seed=4, low=20, high=30)
    first, other = torch.randn(4, 30), torch.randn(4, 30)
    models = [scorer("a", first), scorer("b", first + 1.5), scorer("c", other)]
    maps = attribution_maps(models, found, range(12))
    pairs = {(one.first, one.second): one for one in agreements(pearson_of(maps), ())}
    assert pairs["a, gradient", "a, mutations"].mean == pytest.approx(1, abs=1e-5)
    assert pairs["a, gradient", "b, mutations"].mean == pytest.approx(1, abs=1e-5)
    one = pairs["a, gradient", "c, gradient"]
    wanted = np.mean([np.corrcoef(x, y)[0, 1] for x, y in
                      zip(maps["a, gradient"], maps["c, gradient"], strict=True)])  # fmt: skip
    assert one.mean == pytest.approx(wanted, abs=1e-5)
    assert one.interval.low < one.mean < one.interval.high and one.undefined == 0
    of_groups = agreements(pearson_of(maps), ["x"] * 6 + ["y"] * 6)
    together = {(p.first, p.second): p for p in of_groups}
    wide = together["a, gradient", "c, gradient"].interval
    assert wide != one.interval


def test_constant_maps_do_not_count():
    maps = {"a": [np.zeros(5), np.arange(5.0)], "b": [np.arange(5.0), np.arange(5.0)]}
    (one,) = agreements(pearson_of(maps), ())
    assert one.mean == pytest.approx(1) and one.undefined == 1


def counts_motif(sequences):
    text = ["".join("ACGTN"[c] for c in row) for row in sequences.tolist()]
    return torch.tensor([2.5 * (row[14:21] == "GATTACA") for row in text])


def test_a_pattern_adds_what_it_is_worth_in_the_middle():
    found, _ = examples(20, seed=5, low=35, high=35)
    models = [Explained("counts", lambda length, row: counts_motif)]
    hit, miss = global_importance(models, found, ["GATTACA", "CCCCCCC"])
    assert hit.mean == pytest.approx(2.5, abs=0.05) and hit.interval.low > 2.4
    assert miss.mean == pytest.approx(0, abs=0.05)
    lines = importance_lines([hit])
    assert lines[-1].startswith("| GATTACA | counts | +2.5")
    with pytest.raises(UserError, match="longer than a sequence of 35 bp"):
        global_importance(models, found, ["A" * 36])
