"""A model whose weights are one motif, so that what every tool must find of it is known exactly.

The stem's first two channels match the motif and its reverse complement: LEVEL where all nine bases
fit, below 0 where one does not. What follows passes the highest value of each bin on. Heads read
the first as a track of the plus strand, the second as one of the minus strand, and both as an
unstranded track. In perch the routers choose an expert that takes the channels away: there the
motif means nothing.
"""

import math
from pathlib import Path

import torch
from tiny_models import tiny_config

from spacescale.genome.dna import encode, reverse_complement
from spacescale.genome.tracks import Track
from spacescale.model.layers import AttentionPool, BatchNorm
from spacescale.model.space import Space
from spacescale.predict.predictor import Predictor
from spacescale.predict.trained_model import TrainedModel

MOTIF = "TGACGTAAC"
LEVEL, HEIGHT = 20.0, 3.0  # of the channels, and of heads before softplus
TRACKS = {"plus": ("cage", 1), "minus": ("cage", 0), "both": ("dnase_atac", 2)}  # and strand pairs
TRACK_MEAN = 2.0
BARE = math.log(2)  # softplus(0), predicted where nothing is, in track means
GAIN = math.log1p(math.exp(HEIGHT)) - BARE


@torch.no_grad()
def known_model() -> Space:
    """In evaluation mode; windows of 128 bp, 10 bins of 8 bp in their middle."""
    assays = tuple(assay for assay, _ in TRACKS.values())
    model = Space(
        tiny_config(
            species={"finch": assays, "perch": assays},
            depth=1,
            species_num_experts=2,
            species_top_k=1,
            decoder="none",
        )
    ).eval()
    for parameter in model.parameters():
        parameter.zero_()
    for module in model.modules():
        if isinstance(module, BatchNorm):  # nothing is changed: its statistics are 0 and 1
            module.weight.fill_(math.sqrt(1 + module.eps))
        if isinstance(module, AttentionPool):  # the larger of two
            module.to_logits.weight.copy_(4 * torch.eye(len(module.to_logits.weight))[..., None])
    stem = model.stem[0]
    forward = encode(MOTIF)
    for channel, site in enumerate((forward, reverse_complement(forward))):
        for place, base in enumerate(site):
            stem.weight[channel, base, 3 + place] = 2 * LEVEL
        stem.bias[channel] = -2 * LEVEL * (len(MOTIF) - 0.5)
    for convolution in [*(stage[0][2] for stage in model.conv_tower), model.pointwise[2]]:
        middle = convolution.kernel_size[0] // 2
        convolution.weight[[0, 1], [0, 1], middle] = 1.0
    for head in model.heads.values():
        head.weight[[0, 1, 2, 2], [0, 1, 0, 1]] = HEIGHT / LEVEL
    _forget_in_perch(model.transformer[0].moe)
    return model


def _forget_in_perch(moe) -> None:
    """Expert 1, which perch alone takes: less 2 LEVEL, so below 0, in a channel that stands out."""
    moe.router.bias[1, 1] = 1.0
    moe.norm.weight.fill_(1.0)
    experts, channels = moe.mixture.experts, [0, 1]
    peak = math.sqrt(experts.dim - 1)  # LayerNorm of one channel that is not 0
    experts.w1[1, channels, channels] = 1.0
    experts.w3[1, 0, channels] = -peak / 2
    experts.w2[1, channels, channels] = -2 * LEVEL / (peak / 2)


def known_predictor(species: str = "finch") -> Predictor:
    """Of one species, on the CPU."""
    tracks = [
        Track(
            index=row,
            identifier=name,
            file=f"{name}.bw",
            strand_pair=pair,
            description=f"{assay.upper()}:cell",
            assay=assay,
            mean=TRACK_MEAN,
        )
        for row, (name, (assay, pair)) in enumerate(TRACKS.items())
    ]
    trained = TrainedModel(
        model=known_model(),
        source=Path("known"),
        scale_name="mean",
        tracks=dict.fromkeys(("finch", "perch"), tracks),
        data_manifests={},
        data_splits={},
        data_transforms={},
        data_paths=[],
        run=None,
    )
    return Predictor(trained, species, "cpu", batch_size=16)
