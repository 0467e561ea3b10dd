"""Faults in training, each as a context that plants it in this process."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch
from deepspeed.runtime.zero import stage_1_and_2

from spacescale.checkpoint import convert
from spacescale.model.encoder import TokenHead
from spacescale.model.experts import StackedExperts
from spacescale.model.router import SpeciesRouter
from spacescale.objectives import ProfilesObjective
from spacescale.parallel import comm
from spacescale.parallel.expert_parallel import ExpertParallelExperts
from spacescale.parallel.sync_batchnorm import SyncBatchNorm
from spacescale.testing.checked_runs import TRACKS
from spacescale.train import run as train_run


def with_experts(change: Callable[[StackedExperts], Any]):
    """Each block's experts of this rank are changed when they are shared out."""
    honest = train_run.distribute_experts

    def distribute(model, ep_size):
        honest(model, ep_size)
        for module in model.modules():
            if isinstance(module, ExpertParallelExperts):
                change(module.experts)

    return patch.object(train_run, "distribute_experts", distribute)


def scaled_expert_gradients():
    """The gradients of all experts are 1 % too large."""

    def change(experts):
        for parameter in experts.parameters():
            parameter.register_hook(lambda gradient: 1.01 * gradient)

    return with_experts(change)


def lost_gradient():
    """The last expert of rank 1 learns nothing."""

    def drop(gradient):
        gradient = gradient.clone()
        gradient[-1] = 0
        return gradient

    def change(experts):
        if comm.rank() == 1:
            for parameter in experts.parameters():
                parameter.register_hook(drop)

    return with_experts(change)


def untied_words():
    """On rank 1 the embeddings learn nothing from the head that shares them."""
    if comm.rank() == 0:
        return nullcontext()
    honest = TokenHead.forward
    return patch.object(TokenHead, "forward", lambda self, x, w: honest(self, x, w.detach()))


def lost_tokens():
    """What the last expert of rank 1 makes of its tokens does not come back."""

    def drop(experts, inputs, rows):
        counts = inputs[1]
        kept = torch.ones(len(rows), 1)
        kept[int(counts[:-1].sum()) :] = 0
        return rows * kept

    return with_experts(lambda experts: comm.rank() == 1 and experts.register_forward_hook(drop))


def local_norm():
    """Each rank clips by the norm of what it holds itself."""
    honest = stage_1_and_2.DeepSpeedZeroOptimizer.get_grad_norm_direct

    def get_grad_norm_direct(self, *args, **kwargs):
        with patch.object(stage_1_and_2.dist, "all_reduce", lambda *args, **kwargs: None):
            return honest(self, *args, **kwargs)

    return patch.object(
        stage_1_and_2.DeepSpeedZeroOptimizer, "get_grad_norm_direct", get_grad_norm_direct
    )


def stale_statistics():
    """BatchNorm's running statistics stay as they were."""
    return patch.object(SyncBatchNorm, "_update", lambda *args: None)


def stale_statistics_of_a_rank():
    """The same on rank 1 alone, which writes none."""
    return stale_statistics() if comm.rank() == 1 else nullcontext()


def unsynchronised_statistics():
    """Each rank normalises by its own windows."""
    return patch.object(train_run, "synchronise_batchnorm", lambda model: None)


def swapped_species():
    """Rank 1 takes the gates of the first two species for each other's."""
    honest = ProfilesObjective.build
    others = torch.tensor([1, 0, *range(2, len(TRACKS))])

    def build(objective):
        model = honest(objective)
        for module in model.modules():
            if isinstance(module, SpeciesRouter) and comm.rank() == 1:
                module.register_forward_pre_hook(lambda _, inputs: (inputs[0], others[inputs[1]]))
        return model

    return patch.object(ProfilesObjective, "build", build)


def swapped_heads():
    """The conversion takes the heads of two species for each other's."""
    honest = convert.load_model

    def load(checkpoint):
        model, config = honest(checkpoint)
        first, second, *_ = model.heads.values()
        for a, b in zip(first.parameters(), second.parameters(), strict=True):
            a.data, b.data = b.data, a.data
        return model, config

    return patch.object(convert, "load_model", load)
