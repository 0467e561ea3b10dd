import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from spacescale.bases_config import BasesConfig
from spacescale.model.hybrid import OWN, HybridSpace
from spacescale.overrides import build_config
from spacescale.planning.bases import STAGE, bases_bytes, bases_flops, with_bases
from spacescale.planning.flops import forward_flops, micro_batch_flops
from spacescale.planning.parameters import count_parameters
from spacescale.planning.species import with_species


def published(preset: str, *overrides: str):
    return with_species(build_config(preset, ["objective=profiles+bases", *overrides]), [])


@pytest.mark.parametrize("preset", ["space_large", "space_small", "space_2b"])
def test_the_head_takes_at_most_three_percent_of_the_work(preset):
    config = published(preset)
    work = forward_flops(micro_batch_flops(config.model, {"human": 1}))
    assert 0.01 < forward_flops(bases_flops(config, {"human": 1})) / work < 0.03


def test_work_is_that_of_the_layers():
    config = published("space_demo", "bases.schedule=joint", "bases.mask_windows=1")
    # In 16 bits convolutions are torch's own, which its counter knows.
    model = HybridSpace(config.model, config.bases).bfloat16().eval()
    kind = {"dtype": torch.bfloat16}
    pooled, x = [], torch.zeros(2, config.model.dim, config.model.seq_length // 32, **kind)
    for level, lateral in enumerate(model.bases_head.laterals):
        pooled.append(torch.zeros(2, lateral.in_channels, config.model.seq_length >> level, **kind))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.bases_head(pooled, x.transpose(1, 2), torch.empty(0, dtype=torch.int64))
        model.mask_code(torch.zeros(2, 1, config.model.seq_length, **kind))
    found = bases_flops(config, {"human": 2})[STAGE]
    assert found.forward == pytest.approx(counter.get_total_flops())
    assert found.no_input_gradient == 2 * 2 * 2048 * 15 * config.model.stem_channels


def test_work_follows_the_masked_windows():
    half, all_of_them = (
        bases_flops(published("space_small", "bases.schedule=joint", "bases.code=zero",
                              f"bases.mask_windows={share}"), {"human": 1})[STAGE].forward
        for share in (0.5, 1)
    )  # fmt: skip
    assert half == pytest.approx(all_of_them / 2)


def test_parameters_of_code_and_head_are_counted():
    config = published("space_demo")
    plain = count_parameters(config.model)
    found = with_bases(plain, config)
    model = HybridSpace(config.model, BasesConfig())
    own = sum(p.numel() for n, p in model.named_parameters() if n.startswith(OWN))
    assert found.total - plain.total == found.active - plain.active == own > 10_000
    wide, narrow = (bases_bytes(config, {"human": 1}, size)[STAGE] for size in (4, 2))
    assert wide == 2 * narrow > 1e5


def test_profiles_alone_have_none_of_it():
    config = with_species(build_config("space_small", []), [])
    counts = count_parameters(config.model)
    assert bases_flops(config, {"human": 1}) == bases_bytes(config, {"human": 1}, 4) == {}
    assert with_bases(counts, config) == counts
