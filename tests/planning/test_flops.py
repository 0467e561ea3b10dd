import pytest

from spacescale.overrides import build_config
from spacescale.planning.flops import (
    forward_flops,
    micro_batch_flops,
    recomputed_flops,
    training_flops,
)
from spacescale.planning.species import with_species
from spacescale.space_config import ModelConfig


def published(*overrides: str) -> ModelConfig:
    return with_species(build_config("space_large", list(overrides)), []).model


# GFLOP per window: stem, tower, attention's projections, attention, relative logits, species
# experts, pointwise; then heads, decoder and total of a human and of a mouse window.
TABLE = {
    (768, 131_072): ((83, 331, 44, 30, 26, 160, 2), (15, 167, 857), (5, 52, 732)),
    (768, 196_608): ((125, 497, 67, 67, 57, 239, 2), (15, 167, 1234), (5, 52, 1109)),
    (1536, 131_072): ((321, 1378, 142, 47, 28, 639, 9), (29, 167, 2759), (9, 52, 2624)),
    (1536, 196_608): ((482, 2067, 213, 106, 60, 958, 9), (29, 167, 4090), (9, 52, 3954)),
}


@pytest.mark.parametrize(("size", "expected"), TABLE.items())
def test_forward_work_of_the_published_sizes(size, expected):
    dim, seq_length = size
    model = published(f"model.dim={dim}", f"model.seq_length={seq_length}")
    trunk, *by_species = expected
    for species, (heads, decoder, total) in zip(("human", "mouse"), by_species, strict=True):
        stages = micro_batch_flops(model, {species: 1})
        found = [work.forward / 1e9 for work in stages.values()]
        # The table is rounded to whole GFLOP (8.46 to 9 by way of 8.5).
        assert found == pytest.approx([*trunk, heads, decoder], rel=0.01, abs=0.55)
        assert forward_flops(stages) / 1e9 == pytest.approx(total, rel=0.01)


@pytest.mark.parametrize(
    ("dim", "seq_length", "expected"), [(768, 131_072, 4.8), (1536, 196_608, 24.1)]
)
def test_forward_and_backward_of_a_pair(dim, seq_length, expected):
    model = published(f"model.dim={dim}", f"model.seq_length={seq_length}")
    pair = [training_flops(micro_batch_flops(model, {s: 1})) for s in ("human", "mouse")]
    assert sum(pair) / 1e12 == pytest.approx(expected, rel=0.01)


def test_distances_are_projected_once_per_micro_batch():
    model = published()
    one, two = micro_batch_flops(model, {"human": 1}), micro_batch_flops(model, {"human": 2})
    assert two["attention"].forward == 2 * one["attention"].forward
    assert two["attention_relative"].forward < 2 * one["attention_relative"].forward


def test_a_recomputed_stage_is_computed_twice():
    model = published('model.checkpoint_stages=["transformer"]')
    stages = micro_batch_flops(model, {"mouse": 1})
    transformer = sum(
        stages[name].forward
        for name in ("attention_projections", "attention", "attention_relative", "feed_forward")
    )
    assert recomputed_flops(stages, model) == transformer
    assert recomputed_flops(stages, published()) == 0


def test_pooling_costs_half_where_it_is_executed():
    model = published("model.dim=768")
    stem = 2 * 196_608 * 384 * (4 * 15 + 384)
    pool = 2 * 196_608 * 384 * 384
    assert micro_batch_flops(model, {"mouse": 1})["stem"].forward == stem + pool
    assert micro_batch_flops(model, {"mouse": 1}, executed=True)["stem"].forward == stem + pool / 2
