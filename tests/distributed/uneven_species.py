"""Micro-steps in which ranks hold different species: what arrives where, and what it adds up to."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from spacescale.config import LossConfig, OptimConfig
from spacescale.model.losses import training_losses
from spacescale.model.space import Space
from spacescale.parallel import comm
from spacescale.parallel.engine import build_engine, parameter_groups, resolve_deepspeed_config
from spacescale.parallel.expert_parallel import distribute_experts
from spacescale.parallel.gradient_order import GradientOrder
from spacescale.parallel.sync_batchnorm import synchronise_batchnorm
from spacescale.space_config import ModelConfig
from spacescale.testing.plain_training import TINY_MODEL

SPECIES = {"ant": ("DNASE", "CAGE", "CAGE"), "bee": ("CHIP", "DNASE"), "fly": ("CAGE",)}
# Windows of each species on rank 0 and on rank 1; what is not named is on neither.
MICRO_STEPS: list[dict[str, tuple[int, int]]] = [
    {"ant": (3, 0), "bee": (0, 3)},
    {"ant": (1, 1), "bee": (2, 0), "fly": (0, 2)},
    {"bee": (0, 2), "fly": (3, 1)},
    {"ant": (3, 3)},
]
OPTIM = OptimConfig(lr=1e-3)
CLIP = 1e9  # norms are compared; nothing is clipped


@dataclass(frozen=True)
class Case:
    """One way to run it."""

    zero: int
    ep_size: int
    decoder: Literal["moe", "mlp", "none"] = "moe"
    batchnorm: Literal["mixed", "per_species"] = "mixed"
    recompute: bool = False
    bf16: bool = False

    def __str__(self):
        kept = "-recompute" * self.recompute + "-bf16" * self.bf16
        return f"zero{self.zero}-ep{self.ep_size}-{self.decoder}-{self.batchnorm}{kept}"

    @property
    def model(self) -> ModelConfig:
        stages = ("stem", "conv_tower", "transformer", "pointwise", "decoder")
        return ModelConfig(
            species=SPECIES,
            **TINY_MODEL,
            decoder=self.decoder,
            batchnorm=self.batchnorm,
            checkpoint_stages=stages if self.recompute else (),
        )

    @property
    def loss(self) -> LossConfig:
        """The form that goes with the statistics, as in the presets."""
        reduction = "species" if self.batchnorm == "per_species" else "windows"
        return LossConfig(mi_weight=0.1, cv_weight=0.05, poisson_reduction=reduction)


def windows(micro_step: int, ranks: range) -> tuple[dict, dict[str, int]]:
    """Codes and targets of these ranks' windows of each species, and the windows of all ranks."""
    found, on_all_ranks = {}, {}
    for i, (name, counts) in enumerate(MICRO_STEPS[micro_step].items()):
        generator = torch.Generator().manual_seed(10 * micro_step + i)
        codes = torch.randint(0, 4, (sum(counts), 64), generator=generator).to(torch.uint8)
        targets = 5 * torch.rand(sum(counts), 4, len(SPECIES[name]), generator=generator)
        mine = slice(sum(counts[: ranks.start]), sum(counts[: ranks.stop]))
        found[name] = codes[mine], targets[mine]
        on_all_ranks[name] = sum(counts)
    return found, on_all_ranks


def total_loss(model, case: Case, micro_step: int, ranks: range) -> Tensor:
    here, on_all_ranks = windows(micro_step, ranks)
    output = model({name: codes for name, (codes, _) in here.items()})
    targets = {name: target for name, (_, target) in here.items()}
    sum_over_ranks = comm.sum_over_ranks if len(ranks) == 1 else lambda x: x
    terms = training_losses(output, targets, case.loss, sum_over_ranks, on_all_ranks=on_all_ranks)
    return torch.stack(list(terms.values())).sum()


def fresh_model(case: Case) -> Space:
    torch.manual_seed(7)
    model = Space(case.model)
    with torch.no_grad():  # attention's output starts at zero, which would hide its gradients
        for block in model.transformer:
            block.attention.to_out.weight.normal_(std=0.1)
    return model


def in_one_process(case: Case) -> dict[str, list[float]]:
    """Losses and gradient norms of plain PyTorch over both ranks' windows, one step each."""
    model = fresh_model(case)
    optimizer = torch.optim.AdamW(parameter_groups(model, OPTIM), lr=OPTIM.lr)
    found: dict[str, list[float]] = {"losses": [], "norms": []}
    for micro_step in range(len(MICRO_STEPS)):
        optimizer.zero_grad()
        loss = total_loss(model, case, micro_step, range(2))
        loss.backward()
        found["norms"].append(float(nn.utils.clip_grad_norm_(model.parameters(), CLIP)))
        found["losses"].append(float(loss.detach()))
        optimizer.step()
    return found


def on_this_rank(cases: list[Case]) -> dict[Case, dict[str, list]]:
    return {case: run(case) for case in cases}


def run(case: Case) -> dict[str, list]:
    """The same through DeepSpeed, and in which order gradients arrived in each micro-step."""
    model = fresh_model(case)
    distribute_experts(model, case.ep_size)
    synchronise_batchnorm(model)
    config = {
        "train_micro_batch_size_per_gpu": 3,
        "gradient_clipping": CLIP,
        "zero_optimization": {"stage": case.zero, "stage3_param_persistence_threshold": 0},
        "torch_autocast": {"enabled": case.bf16, "dtype": "bfloat16"},
    }
    engine = build_engine(model, OPTIM, resolve_deepspeed_config(config, "uneven", 1))
    arrived: list[str] = []
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: arrived.append(name))
    order = GradientOrder(model)
    found: dict[str, list] = {"losses": [], "norms": [], "arrived": [], "fingerprints": []}
    for micro_step in range(len(MICRO_STEPS)):
        loss = total_loss(engine, case, micro_step, range(comm.rank(), comm.rank() + 1))
        engine.backward(loss)
        engine.step()
        found["losses"].append(float(comm.add_over_ranks(loss.detach())) / 2)
        found["norms"].append(float(engine.get_global_grad_norm()))
        found["arrived"].append(tuple(arrived))
        found["fingerprints"].append(order.take())
        arrived.clear()
    return found
