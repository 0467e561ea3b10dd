"""An objective that has nothing to do with SPACE, and runs of it through the real trainer.

The composition of a window's right half is predicted from that of its left half, by one matrix:
no experts, no BatchNorm, no tracks, no buffers.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from safetensors.torch import load_file
from small_datasets import LENGTHS
from stopped_runs import train
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from spacescale.checkpoint.convert import convert
from spacescale.checkpoint.probe import Agreement
from spacescale.config import Config, DataConfig, OptimConfig, RunConfig
from spacescale.dataset.loader import TrainingWindows, evaluation_batches
from spacescale.dataset.sampler import SampleOrder
from spacescale.evals.status import as_text, read_status
from spacescale.files import read_json, write_json
from spacescale.model.species_loss import SpeciesLoss
from spacescale.objectives import OBJECTIVES, Losses, Objective, Score
from spacescale.parallel import comm
from spacescale.train.run import prepare

LENGTH = 64  # bp
BLOCK = 128  # bp that are all A and T, or all C and G
STEPS, STOPPED_AT = 12, 5


def blocky_genome(seed: int) -> list[np.ndarray]:
    """Base codes of the contigs of `small_datasets`, in which both halves of a window are alike."""
    random = np.random.default_rng(seed)
    pairs = np.array([[0, 3], [1, 2]])  # A T, C G
    genome = []
    for length in LENGTHS.values():
        kinds = random.integers(0, 2, length // BLOCK + 1).repeat(BLOCK)[:length]
        genome.append(pairs[kinds, random.integers(0, 2, length)].astype(np.uint8))
    return genome


def compositions(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (B, L) → shares of the bases in both halves, (B, 4) each."""
    left, right = one_hot(codes.long(), 5)[..., :4].float().chunk(2, dim=1)
    return left.mean(1), right.mean(1)


class Halves(nn.Module):
    """Shares of the left half (B, 4) → logits of the right one (B, 4)."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Linear(4, 4)

    def forward(self, left: Tensor) -> Tensor:
        return self.matrix(left)


class HalvesObjective(Objective):
    score = Score("valid/agreement", "agreement of the halves")
    attachments = ("notes",)

    def complete(self, datasets: Any) -> Config:
        paths = tuple(str(data.path) for data in datasets.values())
        data = self.config.data.model_copy(update={"paths": paths})
        return self.config.model_copy(update={"data": data})

    def build(self) -> Halves:
        return Halves()

    def windows(
        self, datasets: Any, micro_batch_size: int, rank: int, world_size: int, accumulation: int
    ) -> TrainingWindows:
        counts = {name: len(data.rows("train")) for name, data in datasets.items()}
        order = SampleOrder.of_run(self.config, counts, micro_batch_size, world_size)
        return TrainingWindows(datasets, order, rank, LENGTH, 0)

    def require_same(self, checkpoint: Path, saved: Config) -> None:
        pass  # its settings are all there is

    def begin(self, datasets: Any, device: torch.device) -> None:
        self.datasets, self.device = datasets, device

    def announce(self, model: nn.Module, windows: Any, dtype: torch.dtype) -> None:
        """There is nothing to say."""

    def losses(
        self, model: Callable[..., Any], batch: Any, sum_over_ranks: Any, step: int
    ) -> Losses:
        everywhere = sum(part.on_all_ranks for part in batch.values())
        here = sum(part.num_windows for part in batch.values())
        logits = model(torch.cat([compositions(part.codes)[0] for part in batch.values()]))
        found = {}
        of_species = logits.split([part.num_windows for part in batch.values()])
        for (name, part), own in zip(batch.items(), of_species, strict=True):
            loss = cross_entropy(own, compositions(part.codes)[1], reduction="sum")
            ranks = everywhere // here
            found[name] = SpeciesLoss(loss * ranks / part.on_all_ranks, part.on_all_ranks, 1.0)
        sums = [of.mean * of.windows for of in found.values()]
        penalty = 1e-3 * logits.square().mean()
        total = torch.stack(sums).sum() / everywhere + penalty
        return Losses(total, {"penalty": penalty}, found)

    @torch.no_grad()
    def validate(
        self, model: Callable[..., Any], batch_size: int, stop_asked: Callable[[], bool]
    ) -> dict[str, float] | None:
        scores = {}
        for name, data in self.datasets.items():
            (batch,) = evaluation_batches(data, data.rows("valid"), LENGTH, 99)
            if stop_asked():
                return None
            left, right = compositions(batch.codes)
            logits = model(left)
            scores[f"valid/loss/{name}"] = float(cross_entropy(logits, right))
            found, true = (half[:, 1:3].sum(1) > 0.5 for half in (logits.softmax(1), right))
            scores[f"{self.score.name}/{name}"] = float((found == true).float().mean())
        for kind in ("valid/loss", self.score.name):
            of_species = [v for n, v in scores.items() if n.startswith(f"{kind}/")]
            scores[kind] = sum(of_species) / len(of_species)
        return scores

    def probe(self, model: nn.Module, device: torch.device) -> dict[str, Tensor]:
        return {"bases": model(torch.eye(4, device=device))}

    def attach(self, folder: Path, data: Any) -> None:
        (folder / "notes").mkdir()
        (folder / "notes" / "species.txt").write_text("\n".join(data.datasets))

    def describe(self) -> dict[str, Any]:
        return {"kind": "halves"}

    def load_export(self, folder: Path) -> Halves:
        assert read_json(folder / "config.json")["kind"] == "halves"
        model = Halves()
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model.eval()


def run(folder: Path, name: str, stop_at: int | None = None, resume: str | None = None) -> None:
    """Train in folder/name, to the end or up to a step in which a signal comes."""
    json_file = folder / f"{name}-{comm.rank()}.json"
    write_json(json_file, {"gradient_clipping": 0.2, "zero_optimization": {"stage": 2}})
    config = Config(
        optim=OptimConfig(lr=0.1, max_steps=STEPS, warmup_steps=1),
        data=DataConfig(global_batch_size=8, micro_batch_size=8),
        run=RunConfig(log_every=1, valid_every=4, save_every=4, best_metric="valid/agreement"),
    )
    stop: Any = SimpleNamespace(signal=None)
    watch: Any = SimpleNamespace()
    places = (json_file, folder / name, resume)
    prepared = prepare(config, [folder / "data"], *places, comm.device(), stop, watch)
    train(prepared, stop, stop_at)


def run_all(folder: Path) -> tuple[Agreement | None, str]:
    """A run that goes through, and one that is stopped and goes on; its export, and status."""
    world = comm.world_size()
    with patch.dict(OBJECTIVES, {"profiles": HalvesObjective}):
        run(folder, f"whole-{world}")
        run(folder, f"stopped-{world}", STOPPED_AT)
        run(folder, f"stopped-{world}", resume="must")
        output, export = folder / f"stopped-{world}", folder / f"export-{world}"
        agreement = comm.on_main(lambda: convert(output, export))
        return agreement, comm.on_main(lambda: as_text(read_status(output)))
