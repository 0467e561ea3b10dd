"""One plain state dict from a checkpoint of any layout of processes, without DeepSpeed."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from spacescale.checkpoint import layout
from spacescale.checkpoint.pieces import WEIGHT, StoredPieces, read_buffers
from spacescale.config import Config
from spacescale.model.exports import load_weights
from spacescale.objectives import objective_of


def consolidate(checkpoint: Path) -> dict[str, Tensor]:
    """Read every weight and buffer of a verified checkpoint, experts stacked in global order.

    Raises UserError for files that cannot be read, and parameters that are not there as a whole.
    """
    config = layout.read_config(checkpoint, layout.read_state(checkpoint))
    model = objective_of(config).build_on_meta()
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    stored = StoredPieces(checkpoint)
    stored.check({name: shape.numel() for name, shape in shapes.items()})
    weights = {
        name: stored.read(WEIGHT, name, 0, shape.numel()).view(shape)
        for name, shape in shapes.items()
    }
    return weights | read_buffers(checkpoint, model)


def load_model(checkpoint: Path) -> tuple[nn.Module, Config]:
    """Build the plain model of a checkpoint, verified against its manifest, in evaluation mode."""
    layout.verify(checkpoint)
    config = layout.read_config(checkpoint, layout.read_state(checkpoint))
    model = objective_of(config).build_on_meta()
    load_weights(model, consolidate(checkpoint), str(checkpoint))
    return model.eval(), config
