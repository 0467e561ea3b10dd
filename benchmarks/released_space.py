"""The released code (github.com/ZhuJiwei111/SPACE) from a checkout, as it runs on this machine.

Nothing in the checkout is changed. What it imports but a training step does not use is replaced by
empty modules; its targets tables, which it reads from a home folder, by the order of tracks that
our model uses; nn.SyncBatchNorm, which refuses CPUs, by nn.BatchNorm1d: one process, same numbers.
"""

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from spacescale.checkpoint.released import to_released, to_released_config
from spacescale.config import LossConfig
from spacescale.space_config import ModelConfig

UNUSED_IMPORTS = {"wandb": (), "polars": (), "pyfaidx": ("Fasta",)}
TYPE_ORDER = ("dnase_atac", "tf_chip", "histone_chip", "cage")


def released_model(
    checkout: Path, config: ModelConfig, loss: LossConfig, weights: dict[str, Tensor]
) -> nn.Module:
    """The released TrainingSpace with our weights; called with one-hot windows and labels."""
    from transformers import PreTrainedModel  # noqa: F401  (it looks at pandas: before that goes)

    _stub_imports(config)
    sys.path.insert(0, str(checkout))
    from model import SpaceConfig, modeling_space, modules  # pyright: ignore

    modules.MaybeSyncBatchnorm = lambda is_distributed=None: nn.BatchNorm1d
    modules.TracksMoE.__init__.__defaults__ = (config.tracks_top_k, config.target_length)
    *defaults, _ = modeling_space.Space.forward.__defaults__
    modeling_space.Space.forward.__defaults__ = (*defaults, config.target_length)
    foreign = SpaceConfig(**_settings(config, loss))
    foreign.update(_settings(config, loss))  # its constructor overwrites some of them
    model = modeling_space.TrainingSpace(foreign)
    model.load_state_dict(to_released(weights, config))
    return model


def _settings(config: ModelConfig, loss: LossConfig) -> dict[str, Any]:
    rates = ("dropout", "attn_dropout", "pos_dropout")
    assert not any(getattr(config, rate) for rate in rates), "losses are compared without dropout"
    return to_released_config(config, {}) | {
        "dropout_rate": 0.0,
        "attn_dropout": 0.0,
        "pos_dropout": 0.0,
        "topk": config.species_top_k,
        "tracks_topk": config.tracks_top_k,
        "MIloss_lambda": loss.mi_weight,
        "zloss_lambda": loss.z_weight,
        "cvloss_lambda": loss.cv_weight,
        "num": loss.mi_num_tokens,
    }


def _stub_imports(config: ModelConfig) -> None:
    for name, attributes in UNUSED_IMPORTS.items():
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = ModuleType(name)
            for attribute in attributes:
                setattr(sys.modules[name], attribute, None)
    pandas = ModuleType("pandas")
    pandas.read_csv = functools.partial(_track_order, config)  # pyright: ignore
    sys.modules["pandas"] = pandas
    if not hasattr(torch.cuda.amp, "custom_fwd"):
        torch.cuda.amp.custom_fwd = functools.partial(torch.amp.custom_fwd, device_type="cuda")


def _track_order(config: ModelConfig, path: str, sep: str) -> dict[str, Any]:
    """The column of the targets table that it reads: our track numbers by profile type."""
    species = next(name for name in config.species if name in Path(path).name)
    assays = config.species[species]
    order = sorted(range(len(assays)), key=lambda track: TYPE_ORDER.index(assays[track]))
    return {"index": SimpleNamespace(tolist=lambda: order)}
