"""`attribute --method ism` beside tangermeme's saturation mutagenesis, of one model and its bases.

    pip install tangermeme
    python benchmarks/mutagenesis.py --weights runs/demo/export --species moth --json FILE

Both explain the same number of the same random windows: the predicted sum over the bins around the
middle, mean over all tracks, in multiples of track means. What must agree is the change of it by
every substitution of the middle bases.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import tangermeme
import torch
from tangermeme.saturation_mutagenesis import saturation_mutagenesis
from torch import Tensor, nn

from spacescale.predict.attribution import Attributor, Scope, sequence_of
from spacescale.predict.predictor import Predictor


class Scored(nn.Module):
    """The number that is explained, (B, 1), of bases (B, 4, L)."""

    def __init__(self, attributor: Attributor):
        super().__init__()
        self.model, self.attributor = attributor.predictor.model, attributor

    def forward(self, bases: Tensor) -> Tensor:
        """Of float bases."""
        return self.attributor.score(bases)[:, None]


def compare(attributor: Attributor, codes: np.ndarray, start: int, end: int) -> dict[str, float]:
    """Largest difference of the two, largest change by either, and how long each took."""
    bases = torch.from_numpy(sequence_of(codes))[None]
    begin = time.perf_counter()
    ours = attributor.mutagenesis(codes, start, end)
    middle = time.perf_counter()
    before, after = saturation_mutagenesis(
        Scored(attributor).eval(), bases, start=start, end=end, raw_outputs=True, device="cpu",
        batch_size=33, fast=False,  # other batches than ours, so that sums may round otherwise
    )  # fmt: skip
    theirs = (after - before[:, None, None])[0, :, :, 0].detach().numpy()
    return {
        "largest_difference": float(np.abs(ours - theirs).max()),
        "largest_change": float(np.abs(ours).max()),
        "seconds_ours": middle - begin,
        "seconds_tangermeme": time.perf_counter() - middle,
    }


def main() -> None:
    """Compare them on some windows, print the figures and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--species")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--bases", type=int, default=100, help="of the middle, mutated")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    predictor = Predictor.load(args.weights, args.species, "cpu", batch_size=16)
    bins = predictor.span // predictor.bin_size
    scope = Scope(tuple(range(len(predictor.tracks))), bins // 2 - 2, bins // 2 + 2)
    start = (predictor.window - args.bases) // 2
    found = []
    for seed in range(args.windows):
        codes = np.random.default_rng(seed).integers(0, 4, predictor.window).astype(np.uint8)
        found.append(compare(Attributor(predictor, scope), codes, start, start + args.bases))
        print(", ".join(f"{name} {value:.3g}" for name, value in found[-1].items()), flush=True)
    worst = max(one["largest_difference"] for one in found)
    print(f"tangermeme {tangermeme.__version__}: largest difference {worst:.2g}")
    if args.json:
        record = {"tangermeme": tangermeme.__version__, "windows": found}
        args.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
