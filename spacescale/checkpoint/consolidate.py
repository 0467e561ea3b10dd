"""One plain state dict from a distributed checkpoint's files, without DeepSpeed.

With ZeRO-1 and 2 the weights lie whole in `mp_rank_00_model_states.pt`, except the experts, of
which each has a file of its own per layer, named by its global number.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from spacescale.checkpoint import layout
from spacescale.config import Config
from spacescale.errors import UserError
from spacescale.model.space import Space, load_weights

EXPERT_KEY = re.compile(r"(?P<name>.+\.experts\.w[123])\.(?P<expert>\d+)")


def consolidate(checkpoint: Path) -> dict[str, Tensor]:
    """Read every weight and buffer of a verified checkpoint, experts stacked in global order.

    Float tensors come back as float32. Raises UserError for a file that holds anything but plain
    tensors, or experts that are missing.
    """
    state = _load_plain(checkpoint / "mp_rank_00_model_states.pt")["module"]
    experts: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for path in sorted(checkpoint.glob("layer_*_expert_*_model_states.pt")):
        for key, tensor in _load_plain(path).items():
            match = EXPERT_KEY.fullmatch(key)
            if match is None:
                raise UserError(f"{path}: unexpected entry {key!r}")
            experts[match["name"]][int(match["expert"])] = tensor
    for name, numbered in experts.items():
        absent = set(range(max(numbered) + 1)) - numbered.keys()
        if absent:
            raise UserError(f"{checkpoint}: expert {min(absent)} of {name} is missing")
        state[name] = torch.stack([numbered[i] for i in sorted(numbered)])
    return {
        key: (tensor.float() if tensor.is_floating_point() else tensor).contiguous()
        for key, tensor in state.items()
    }


def _load_plain(path: Path) -> dict:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:
        raise UserError(f"{path}: cannot be read as plain tensors: {error}") from None


def load_space(checkpoint: Path) -> tuple[Space, Config]:
    """Build the plain model of a checkpoint, verified against its manifest, in evaluation mode."""
    layout.verify(checkpoint)
    config = Config.model_validate(layout.read_state(checkpoint)["config"])
    model = Space(config.model)
    load_weights(model, consolidate(checkpoint), str(checkpoint))
    return model.eval(), config
