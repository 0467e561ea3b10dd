"""Evaluate a trained model on a split: scores, tables and figures for people.

Shapes: N bins, T tracks.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from spacescale.dataset.batch import SpeciesBatch
from spacescale.dataset.loader import evaluation_batches, open_datasets, open_genomes
from spacescale.dataset.reader import SpeciesData, with_tracks
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.errors import UserError
from spacescale.evals import experts, figures
from spacescale.evals.baseline_input import Strands
from spacescale.evals.cnn_baseline import fit_cnn
from spacescale.evals.curves import loss_curves
from spacescale.evals.genes import GeneScores, read_genes
from spacescale.evals.intervals import Blocks, BlockScores, blocks_of
from spacescale.evals.linear_baselines import GC, KMERS, fit_ridge
from spacescale.evals.masked_bases import score_species
from spacescale.evals.profile_baselines import MeanProfile, mean_profile, peak_thresholds
from spacescale.evals.region import Region, choose_regions
from spacescale.evals.replicates import Replicates
from spacescale.evals.results import SpeciesResult, summary, write_tables
from spacescale.files import write_json
from spacescale.metrics.routing import ExpertUse
from spacescale.metrics.writer import METRICS_FILE, read_metrics
from spacescale.model.hybrid import HybridSpace
from spacescale.model.space import Space, SpaceOutput
from spacescale.objectives.track_prediction import add_expert_use, empty_expert_use, score_split
from spacescale.parallel import comm
from spacescale.predict.trained_model import OTHER_SPLIT, TrainedModel, load_trained

BASES_FILE = "bases.json"

logger = logging.getLogger(__name__)


@dataclass
class Scored:
    """What came out for some windows of one species; parts that devices took add up."""

    scores: BlockScores
    baselines: dict[str, BlockScores]  # name → as the model's
    use: ExpertUse
    predicted: dict[int, np.ndarray] = field(default_factory=dict)  # row → (N, T)
    observed: dict[int, np.ndarray] = field(default_factory=dict)

    def __add__(self, other: Scored) -> Scored:
        return Scored(
            self.scores + other.scores,
            {name: part + other.baselines[name] for name, part in self.baselines.items()},
            self.use + other.use,
            self.predicted | other.predicted,
            self.observed | other.observed,
        )


class Baseline(Protocol):
    """Predicts a species without the model."""

    @property
    def name(self) -> str:
        """As printed above its scores."""
        ...

    def predict(self, rows: Sequence[int]) -> Tensor:
        """Predict windows: float32 (B, N, T) on the CPU, in multiples of the track mean."""
        ...


@dataclass(frozen=True)
class Options:
    """What is scored, and beside what.

    both_strands: predict, with baselines too, from both and take the mean. cnn_minutes: train a
    plain CNN of each species for so long, as a further baseline, from cnn_seed. train_too: score as
    many training windows, evenly spaced. genes: species → GTF whose genes are scored. region: what
    to draw, as `choose_regions` takes it.
    """

    split: str = "test"
    both_strands: bool = False
    other_split: bool = False
    batch_size: int = 4
    cnn_minutes: float | None = None
    cnn_seed: int = 0
    train_too: bool = False
    genes: Mapping[str, Path] = field(default_factory=dict)
    region: str | None = None


def evaluate(
    path: Path,
    data_paths: list[Path],
    out: Path | None = None,
    options: Options = Options(),
    devices: Sequence[torch.device] | None = None,
) -> str:
    """Score `path` on a split of the data and write tables and figures; returns a summary table.

    Writes metrics.json, one SPECIES/acc.txt each and figures/*.png to `out`, and bases.json for a
    model that predicts hidden bases. Beside the model stand
    baselines that were fitted on the training windows of the same data: each track's mean profile,
    GC content, a ridge regression on k-mers. Raises UserError for data that do not fit the model,
    and unless other_split for data that are split in another way than those it was trained on.
    Windows are dealt out to `devices` (default: every visible GPU, else the CPU).
    """
    trained = load_trained(path)
    if not data_paths and not trained.data_paths:
        raise UserError(f"{path}: an export does not know its data; give --data")
    if not data_paths and (moved := [str(p) for p in trained.data_paths if not p.is_dir()]):
        raise UserError(
            f"{path}: was trained on {', '.join(moved)}, which is not there; give --data with the "
            "folders where the data are now"
        )
    open_all = open_genomes if isinstance(trained.model, HybridSpace) else open_datasets
    genomes = open_all(data_paths or trained.data_paths)
    for genome in genomes.values():
        trained.check_data(genome, options.other_split)
    datasets = with_tracks(genomes)
    if unknown := sorted(options.genes.keys() - datasets.keys()):
        raise UserError(f"genes of {', '.join(unknown)}; the data are of {', '.join(datasets)}")
    regions = choose_regions(datasets, options.split, options.region)
    first, *others = devices or comm.devices()
    replicas = [copy.deepcopy(trained.model).to(device) for device in others]
    replicas.append(trained.model.to(first))
    results = [
        _evaluate_species(trained, replicas, data, regions.get(name), options)
        for name, data in datasets.items()
    ]
    folder = out or (trained.run or path) / "evaluation" / options.split
    folder.mkdir(parents=True, exist_ok=True)
    if results:  # none where all species are without tracks
        write_tables(folder, results, trained.source.name, options.split, options.both_strands)
        draw_figures(folder / "figures", results, options.split, trained.run)
    logger.info("tables and figures: %s", folder)
    splits = {name: trained.splits_of(genome) for name, genome in genomes.items()}
    notes = [f"{name}: {OTHER_SPLIT}" for name, found in splits.items() if found == "other"]
    if isinstance(replicas[-1], HybridSpace):
        notes += _hidden_bases(replicas[-1], genomes, options, folder)
    return "\n".join([*([summary(results)] if results else []), *notes])


def _hidden_bases(
    model: HybridSpace, genomes: Mapping[str, SpeciesGenome], options: Options, folder: Path
) -> list[str]:
    """Score bases that are hidden from the model, write bases.json; returns lines about it."""
    scored = score_species(model, genomes, options.split, options.batch_size)
    write_json(folder / BASES_FILE, {one.species: one.json() for one in scored}, indent=1)
    return [one.line() for one in scored]


def _evaluate_species(
    trained: TrainedModel,
    replicas: list[Space],
    data: SpeciesData,
    region: Region | None,
    options: Options,
) -> SpeciesResult:
    rows = data.rows(options.split)
    if region is None:
        raise UserError(f"{data.path}: no windows in split {options.split!r}")
    device = next(replicas[0].parameters()).device
    baselines = fit_baselines(trained, data, options, device)
    gtf = options.genes.get(data.name)
    genes = GeneScores(data, read_genes(gtf), rows) if gtf else None
    scored = _score_rows(trained, replicas, data, rows, region.rows, baselines, options, genes)
    train = None
    if options.train_too:
        seen = data.rows("train")
        seen = seen[np.linspace(0, len(seen) - 1, min(len(seen), len(rows))).astype(int)]
        train = _score_rows(trained, replicas, data, seen, (), [], options).scores
    return SpeciesResult(
        data,
        trained.splits_of(data),
        len(rows),
        region,
        scored.scores,
        scored.baselines,
        train,
        genes.result() if genes else None,
        scored.use,
        scored.predicted,
        scored.observed,
    )


def fit_baselines(
    trained: TrainedModel, data: SpeciesData, options: Options, device: torch.device
) -> list[Baseline]:
    """What the model is held against, fitted on the training windows; [] where there are none.

    Replicates come last: no baseline, but how far one can get.
    """
    if not data.manifest.num_windows.get("train"):
        logger.warning("%s: no training windows, so no baselines", data.path)
        return []
    means = trained.track_scale(data.name).means
    strands = Strands(data.strand_pair, means.numpy(), options.both_strands)
    found: list[Baseline] = [
        MeanProfile(mean_profile(data) / means),
        *(fit_ridge(data, features, strands) for features in (GC, KMERS)),
    ]
    if options.cnn_minutes is not None:
        found.append(fit_cnn(data, strands, options.cnn_minutes, device, options.cnn_seed))
    replicates = Replicates(data, means)
    return [*found, replicates] if replicates.groups else found


def _score_rows(
    trained: TrainedModel,
    replicas: list[Space],
    data: SpeciesData,
    rows: np.ndarray,
    drawn: Collection[int],
    baselines: list[Baseline],
    options: Options,
    genes: GeneScores | None = None,
) -> Scored:
    """Score these rows on all devices; drawn: rows whose predictions are kept."""
    peak = peak_thresholds(data, rows) / trained.track_scale(data.name).means
    blocks = blocks_of(data, rows)
    with (
        tqdm(total=len(rows), unit="window", desc=data.name, disable=None) as bar,
        ThreadPoolExecutor(len(replicas)) as threads,
    ):
        scoring = _Scoring(trained, data, drawn, baselines, blocks, peak, options, genes, bar)
        shares = [rows[place :: len(replicas)] for place in range(len(replicas))]
        parts = [
            threads.submit(scoring.score, *part) for part in zip(replicas, shares, strict=True)
        ]
        try:
            wait(parts, return_when=FIRST_EXCEPTION)
        finally:  # after a failure or Ctrl-C, too: leaving this block waits for all
            scoring.stopped.set()
        first, *others = [part.result() for part in parts]
    return sum(others, start=first)


@dataclass(frozen=True)
class _Scoring:
    """How the windows of one species are scored, on any device."""

    trained: TrainedModel
    data: SpeciesData
    drawn: Collection[int]
    baselines: list[Baseline]
    blocks: Blocks
    peak: Tensor  # (T,), in track means
    options: Options
    genes: GeneScores | None
    bar: tqdm
    stopped: Event = field(default_factory=Event)  # no further batch is to be begun

    def score(self, model: Space, rows: np.ndarray) -> Scored:
        """Score these rows where the model lies; the result is on the CPU."""
        device = next(model.parameters()).device
        if device.type == "cuda":
            torch.cuda.set_device(device)  # of this thread
        scale = self.trained.track_scale(self.data.name).to(device)
        assays = [track.assay for track in self.data.tracks]
        scores = BlockScores(self.blocks, self.peak, assays, device)
        baselines = {
            baseline.name: BlockScores(self.blocks, self.peak, assays, device)
            for baseline in self.baselines
        }
        use = empty_expert_use(model.config, device)
        predicted, observed = {}, {}

        def observe(batch: SpeciesBatch, prediction: Tensor, output: SpaceOutput) -> None:
            target, rows = scale.in_means(batch.targets), batch.rows.tolist()
            scores.update(rows, prediction, target)
            for baseline in self.baselines:
                baselines[baseline.name].update(rows, baseline.predict(rows).to(device), target)
            add_expert_use(use, output)
            for row, x, y in zip(rows, prediction.cpu().numpy(), target.cpu().numpy(), strict=True):
                if row in self.drawn:
                    predicted[row], observed[row] = x, y
                if self.genes is not None:
                    self.genes.update(row, x, y)
            self.bar.update(len(rows))

        try:
            score_split(
                model,
                self.data.name,
                self._batches(rows, model.config.seq_length, device),
                scale,
                strand_pair=self.data.strand_pair if self.options.both_strands else None,
                observe=observe,
            )
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{device} has not the memory for --batch {self.options.batch_size}; take a "
                "smaller one"
            ) from error
        on_cpu = {name: part.cpu() for name, part in baselines.items()}
        return Scored(scores.cpu(), on_cpu, use.cpu(), predicted, observed)

    def _batches(
        self, rows: np.ndarray, seq_length: int, device: torch.device
    ) -> Iterator[tuple[SpeciesBatch, None]]:
        for batch in evaluation_batches(self.data, rows, seq_length, self.options.batch_size):
            if self.stopped.is_set():
                return
            yield batch.to(device), None


def draw_figures(folder: Path, results: list[SpeciesResult], split: str, run: Path | None) -> None:
    """Draw the figures of an evaluation; a missing matplotlib is named and skipped."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        logger.warning("no figures: matplotlib is not installed (pip install 'spacescale[plot]')")
        return
    per_assay: dict[str, dict[str, list[float]]] = {}
    for result in results:
        _draw_region(folder, result, split)
        parts = per_assay.setdefault(result.data.name, {})
        values = result.scores.total().log1p.pearson().tolist()
        for track, value in zip(result.data.tracks, values, strict=True):
            parts.setdefault(track.assay, []).append(value)
    figures.pearson_per_assay(folder / "pearson_per_assay.png", per_assay)
    encoder, decoder = {}, {}
    for result in results:
        use, name = result.use, result.data.name
        encoder |= {n: s.numpy() for n, s in use.encoder_shares().items() if n == name}
        decoder |= {key: s.numpy() for key, s in use.decoder_shares().items()}
    if encoder or decoder:
        experts.expert_use(folder / "expert_use.png", encoder, decoder)
    if run is not None and (run / METRICS_FILE).is_file():
        loss_curves(folder / "loss_curves.png", run / METRICS_FILE)
        found = experts.information(read_metrics(run / METRICS_FILE))
        experts.draw_information(folder / "mutual_information.png", {run.name: [found]})


def _draw_region(folder: Path, result: SpeciesResult, split: str) -> None:
    data, region = result.data, result.region
    shown = figures.some_tracks([track.assay for track in data.tracks])
    some = "" if len(shown) == len(data.tracks) else f", {len(shown)} of {len(data.tracks)} tracks"
    figures.tracks_over_region(
        folder / f"tracks_{data.name}.png",
        region.chrom,
        region.start,
        data.bin_size,
        region.join(result.predicted)[:, shown],
        region.join(result.observed)[:, shown],
        [data.tracks[place].identifier for place in shown],
        f"{data.name}, {split}{some}: observed and predicted, in multiples of the track mean",
    )
