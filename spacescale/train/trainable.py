"""What of a model a run trains, and at which rates: `optim.freeze`, `only_new` and `lr_factors`."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from spacescale.config import OptimConfig
from spacescale.errors import UserError
from spacescale.genome.aliases import shorten
from spacescale.model.layers import BatchNorm
from spacescale.objectives import Objective
from spacescale.parallel.freezing import matches, require_matches
from spacescale.predict.trained_model import TrainedModel
from spacescale.train.only_new import rows_of_old

logger = logging.getLogger(__name__)


def frozen_rows(
    model: nn.Module, optim: OptimConfig, old: TrainedModel | None
) -> dict[str, Tensor]:
    """Parameter → which of its rows are frozen, bool, as `freezing.freeze` takes it.

    old: weights that stay as they are, with `optim.only_new`.
    """
    rows = rows_of_old(model, old.model.species) if old is not None else {}
    for name, _ in model.named_parameters():
        if any(matches(name, pattern) for pattern in optim.freeze):
            rows[name] = torch.ones(1, dtype=torch.bool)
    return rows


def require_something_to_train(objective: Objective, old: TrainedModel | None) -> None:
    """Raise UserError for patterns that match no parameter, and where every one is frozen."""
    model, optim = objective.build_on_meta(), objective.config.optim
    names = [name for name, _ in model.named_parameters()]
    require_matches(names, optim.freeze, "optim.freeze (--freeze)")
    require_matches(names, optim.lr_factors, "optim.lr_factors")
    rows = frozen_rows(model, optim, old)
    if all(name in rows and rows[name].all() for name in names):
        raise UserError(f"optim.freeze={list(optim.freeze)}: nothing is left to train; freeze less")


def announce_trainable(model: nn.Module, optim: OptimConfig, rows: Mapping[str, Tensor]) -> None:
    """Say what is frozen, rows of parameters, and which have another learning rate."""
    names = [name for name, _ in model.named_parameters()]
    trained = [name for name in names if name not in rows or not rows[name].all()]
    if frozen := len(names) - len(trained):
        still = sum(isinstance(m, BatchNorm) and m.frozen for m in model.modules())
        logger.info(
            "frozen: %d of %d parameters, and the statistics of %d BatchNorms; trained: %s",
            *(frozen, len(names), still, shorten(trained)),
        )
    rest = trained
    for pattern, factor in optim.lr_factors.items():
        found = [name for name in rest if matches(name, pattern)]
        rest = [name for name in rest if name not in found]
        logger.info("learning rate × %g: %d parameters by %r", factor, len(found), pattern)
