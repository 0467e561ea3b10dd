"""Plans against one real micro-step, at a size that runs in a second."""

import pytest
import torch

from spacescale.config import Config
from spacescale.overrides import build_config
from spacescale.planning.measure import measure
from spacescale.planning.plan import make_plan
from spacescale.planning.states import Layout

pytestmark = pytest.mark.long

ASSAYS = ("cage", "dnase_atac", "histone_chip", "tf_chip")
ALL_STAGES = '["stem", "conv_tower", "transformer", "pointwise", "decoder"]'
ALONE = Layout(gpus=1, zero_stage=0, ep_size=1)


@pytest.fixture(autouse=True)
def one_thread():
    """Operations this small lose more by waiting for threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small(*overrides: str) -> Config:
    size = ["model.seq_length=8192", "model.target_length=48", "model.dim=96", "model.depth=2"]
    values = build_config("space_tiny", [*size, *overrides]).model_dump()
    values["model"]["species"] = {"human": ASSAYS * 60, "mouse": ASSAYS * 30}
    return Config.model_validate(values)


def compare(overrides, windows, precision="fp32"):
    config = small(*overrides)
    plan = make_plan(config, ALONE, windows, precision, on_gpu=False)
    return plan, measure(config, windows, precision, torch.device("cpu"))


@pytest.mark.parametrize(("precision", "changes"), [("fp32", []), ("bf16", ["model.dropout=0"])])
def test_an_encoder_takes_what_its_plan_says(precision, changes):
    size = ["model.dim=64", "model.depth=2", "model.ffn_dim=256", "mlm.max_tokens=256"]
    config = build_config("genomics_fm_tiny", [*size, *changes])
    plan = make_plan(config, ALONE, {"sequences": 4}, precision, on_gpu=False)
    found = measure(config, plan.windows, precision, torch.device("cpu"))
    assert found.states.total == pytest.approx(plan.states.total, rel=1e-3)
    work = plan.micro_batch_work
    assert found.forward_flops == pytest.approx(work.executed_forward, rel=0.01)
    assert found.training_flops == pytest.approx(work.executed_training, rel=0.01)
    kept = sum(plan.activations.kept.values())
    assert found.activations == pytest.approx(kept, rel=0.03 if precision == "fp32" else 0.1)


CASES = [
    ((), {"human": 1}, "fp32"),
    ((), {"human": 2, "mouse": 2}, "fp32"),
    ((), {"human": 2, "mouse": 2}, "bf16"),
    (("model.batchnorm=per_species",), {"human": 1, "mouse": 1}, "fp32"),
    (("model.decoder=none",), {"human": 1}, "fp32"),
    (("model.decoder=none",), {"human": 4}, "fp32"),
    (("model.stem_dim=16", "model.dilated_convs=4"), {"human": 4}, "fp32"),
    (("model.decoder=mlp", "model.tracks_num_experts=2"), {"human": 1}, "fp32"),
    (("model.species_num_experts=0", "model.species_token=false"), {"mouse": 4}, "fp32"),
    (("model.dropout=0", "model.attn_dropout=0"), {"human": 1}, "fp32"),
    (('model.checkpoint_stages=["stem", "conv_tower"]',), {"human": 1}, "fp32"),
    ((f"model.checkpoint_stages={ALL_STAGES}",), {"human": 2, "mouse": 2}, "fp32"),
    (
        (f"model.checkpoint_stages={ALL_STAGES}", "model.dilated_convs=4"),
        {"human": 1},
        "bf16",
    ),
]


@pytest.mark.parametrize(("overrides", "windows", "precision"), CASES)
def test_planned_is_measured(overrides, windows, precision):
    plan, measured = compare(overrides, windows, precision)
    assert sum(plan.activations.kept.values()) == pytest.approx(measured.activations, rel=0.1)
    work = plan.micro_batch_work
    assert work.executed_forward == pytest.approx(measured.forward_flops, rel=0.1)
    assert work.executed_training == pytest.approx(measured.training_flops, rel=0.1)
    for name in ("weights", "gradients", "optimiser"):
        assert getattr(plan.states, name) == pytest.approx(
            getattr(measured.states, name), rel=0.001
        )


def test_longer_windows_keep_the_right_share_of_attention():
    sizes = ("model.seq_length=65536", "model.depth=4")
    plan, measured = compare(sizes, {"human": 1})
    assert plan.activations.kept["attention"] > 0.3 * measured.activations
    assert sum(plan.activations.kept.values()) == pytest.approx(measured.activations, rel=0.1)


def test_recomputing_keeps_less_and_adds_the_largest_part():
    plain = make_plan(small(), ALONE, {"human": 1}, "fp32").activations
    config = small('model.checkpoint_stages=["stem", "transformer"]')
    less = make_plan(config, ALONE, {"human": 1}, "fp32").activations
    assert plain.recomputed == 0
    assert less.recomputed == plain.kept["stem"]
    assert less.total < plain.total
