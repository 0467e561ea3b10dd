"""What `hybrid_yeast.py` measures of one run on yeast. Shapes: L bases, N bins, T tracks."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from histone_probe import auroc, mean_auroc
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from torch import Tensor

from spacescale.dataset.batch import SpeciesBatch
from spacescale.dataset.loader import evaluation_batches, open_datasets
from spacescale.dataset.reader import SpeciesData
from spacescale.evals.masked_bases import score_masked_bases
from spacescale.genome import dna
from spacescale.genome.kmers import kmer_ids
from spacescale.model.hybrid import Hidden, HybridSpace
from spacescale.model.layers import BatchNorm
from spacescale.objectives.track_prediction import score_split
from spacescale.predict.trained_model import TrainedModel, load_trained
from spacescale.tasks.resampling import middle_of

SPECIES, TEST, BATCH = "yeast", "chrXVI", 8
MEASURES = ("scores", "reb1", "dream", "histones", "statistics")  # each gives some of NAMES
NAMES = {
    "pearson": "Pearson log1p, XVI",
    "perplexity": "perplexity, XVI",
    "accuracy": "accuracy",
    "counts_perplexity": "counts of ±4",
    "lone_perplexity": "perplexity, single bases",
    "lone_counts": "counts, single bases",
    "reb1_auroc": "Reb1 AUROC",
    "reb1_given_gc": "Reb1 given GC",
    "reb1_auroc_xvi": "the same, XVI",
    "reb1_gc": "Reb1, GC around",
    "dream_r": "promoters r",
    "dream_partial": "partial r given GC",
    "dream_gc": "all promoters, GC",
    "dream_words": "all promoters, 4-mers",
    "histone_auroc": "histone marks, XVI, AUROC",
    "valid_pearson": "valid, running statistics",
    "valid_pearson_recomputed": "valid, recomputed",
}
# What has an interval over promoters: by its name the names of both ends.
INTERVALS = {name: (f"{name}_low", f"{name}_high") for name in ("dream_r", "dream_partial")}
REB1 = "TTACCCG"
NEAR_PEAK = 15  # bp between a bound site's middle and the peak
AROUND_SITE = 50  # bp to either side whose GC content is held beside
# Of a line of DREAM: without the vector's flanks. 57 to 105 bp are left, of 82 % of the lines 80.
# Of all 6,370 in `demo_train.txt` GC has r 0.351 with expression, with flanks or without. The 0.409
# told elsewhere beside 0.589 of a ridge is of the same bases, but of the fifth on which that ridge
# was tested, `default_rng(0).permutation(6370)[:1274]`; 98 % of random fifths have 0.31 to 0.40.
PROMOTER = slice(17, -13)
UPSTREAM = 180  # bp from the promoter's first base to the gene's start
WORD = 4
DRAWS = 1000  # of promoters, for intervals
GENE_BINS = 8  # of the gene, whose RNA is read
STATISTICS_WINDOWS = 64
# Hidden one by one, and so few that nearly all have their neighbours; counts see those of all.
LONE = {"single_share": 1.0, "rate": 0.02, "rate_up_to": None}


def measure(run: Path, args: argparse.Namespace, only: list[str]) -> dict[str, float]:
    """Some of MEASURES, of a run's best checkpoint.

    What hidden bases tell is left out of runs that know none, and of those that ended with profiles
    alone: their head was left behind by the trunk.
    """
    trained = load_trained(run)
    data = open_datasets(trained.data_paths)[SPECIES]
    knows_bases = base_model_of(trained)
    found: dict[str, float] = {}
    if "scores" in only:
        found |= {"pearson": pearson(trained, data, "test")}
        if knows_bases:
            found |= perplexities(knows_bases, data)
    if "reb1" in only and knows_bases:
        found |= reb1(knows_bases, data, args.raw / "peaks/Reb1_CX.bed", args.sites)
    if "dream" in only:
        genes = args.raw / "annotation/TSSs.bed"
        found |= dream(trained, data, genes, args.dream, args.promoters, args.reporters)
    if "histones" in only:
        found["histone_auroc"] = mean_auroc(trained.model, data, args.histones, TEST)
    if "statistics" in only:
        found |= statistics(trained, data)
    return found


# ---- Profiles and hidden bases -------------------------------------------------------------------


def pearson(trained: TrainedModel, data: SpeciesData, split: str) -> float:
    """Mean over tracks of log1p Pearson."""
    length = trained.model.config.seq_length

    def batches() -> Iterator[tuple[SpeciesBatch, None]]:
        for batch in evaluation_batches(data, data.rows(split), length, BATCH):
            yield batch, None

    found = score_split(trained.model, data.name, batches(), trained.track_scale(data.name))
    return float(found.log1p.pearson().nanmean())


def base_model_of(trained: TrainedModel) -> HybridSpace | None:
    """The model, if it was trained on hidden bases to the end."""
    model = trained.model
    return model if isinstance(model, HybridSpace) and model.bases.schedule != "first" else None


def perplexities(model: HybridSpace, data: SpeciesData) -> dict[str, float]:
    """Of the test chromosome, beside counts: hidden as in training, and one by one."""
    bases = score_masked_bases(model, data, "test", BATCH)
    few = model.bases.model_copy(update=LONE)
    lone = score_masked_bases(model, data, "test", BATCH, bases=few)
    return {
        "perplexity": bases.model.perplexity,
        "accuracy": bases.model.accuracy,
        "counts_perplexity": bases.counts.perplexity,
        "lone_perplexity": lone.model.perplexity,
        "lone_counts": lone.counts.perplexity,
    }


def statistics(trained: TrainedModel, data: SpeciesData) -> dict[str, float]:
    """Validation with the running statistics of BatchNorm, and with those of clean windows.

    Running ones are of training, in which bases of some windows are hidden.
    """
    recomputed = copy.deepcopy(trained.model)
    norms = [module for module in recomputed.modules() if isinstance(module, BatchNorm)]
    rows = data.rows("train")
    rows = rows[np.linspace(0, len(rows) - 1, STATISTICS_WINDOWS).astype(int)]
    length = trained.model.config.seq_length
    for norm in norms:
        norm.train()  # and not the rest: no dropout
    with torch.no_grad():
        for number, batch in enumerate(evaluation_batches(data, rows, length, 4)):
            for norm in norms:
                norm.momentum = 1 / (number + 1)
            # Of the head's own there are no clean windows.
            recomputed({data.name: batch.codes})
    recomputed.eval()
    other = copy.copy(trained)
    other.model = recomputed
    found = {"valid_pearson": pearson(trained, data, "valid")}
    return found | {"valid_pearson_recomputed": pearson(other, data, "valid")}


# ---- Reb1 sites ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """An instance of the motif; start: of its first base on the forward strand."""

    chrom: str
    start: int
    forward: bool
    bound: bool


def sites_of(data: SpeciesData, peaks: Path) -> list[Site]:
    """Every instance of Reb1's motif in the genome, on either strand."""
    places: dict[str, list[int]] = {}
    for line in peaks.read_text().splitlines():
        chrom, start, *_ = line.split("\t")
        places.setdefault(_roman(chrom), []).append(int(start))
    motif = dna.encode(REB1)
    found = []
    for contig in data.manifest.contigs:
        codes = data.codes(contig.name, 0, contig.length)
        windows = np.lib.stride_tricks.sliding_window_view(codes, len(motif))
        near = np.array(places.get(contig.name, [-(10**9)]))
        for forward, wanted in ((True, motif), (False, dna.reverse_complement(motif))):
            for start in np.flatnonzero((windows == wanted).all(1)).tolist():
                distance = np.abs(near - (start + len(motif) // 2)).min()
                found.append(Site(contig.name, start, forward, bool(distance <= NEAR_PEAK)))
    return found


def reb1(model: HybridSpace, data: SpeciesData, peaks: Path, at_most: int) -> dict[str, float]:
    """Are bound sites foretold better than unbound ones? Area under the ROC curve.

    The seven bases of a site are hidden together, read on the motif's strand; the score is the mean
    of their log probabilities. Only the test chromosome's sites lie in bases that never trained.
    Beside it stands the GC content around the sites, which a model can know without any motif, and
    what the score says beyond a straight line in it.
    """
    sites = [s for s in sites_of(data, peaks) if s.chrom != "chrM"]
    if at_most:
        sites = [sites[i] for i in np.linspace(0, len(sites) - 1, at_most).astype(int)]
    length, size = model.config.seq_length, len(REB1)
    truth = torch.from_numpy(dna.encode(REB1)).long()
    found, gc = [], []
    for first in range(0, len(sites), BATCH):
        codes = [_around(data, site, length) for site in sites[first : first + BATCH]]
        place = length // 2
        gc += [_gc_around(one, place, size) for one in codes]
        batch = torch.from_numpy(np.stack(codes))
        assert (batch[:, place : place + size] == truth).all()
        batch[:, place : place + size] = dna.HIDDEN
        places = torch.arange(len(batch))[:, None] * length + place + torch.arange(size)
        hidden = {data.name: Hidden(range(len(batch)), places.flatten(), len(batch), 0)}
        with torch.no_grad():
            logits = model({data.name: batch}, hidden).base_logits[data.name]
        logged = logits.log_softmax(1).view(len(batch), size, 4)
        found += logged[:, torch.arange(size), truth].mean(1).tolist()
    score, bound = np.array(found), np.array([site.bound for site in sites])
    in_test = np.array([site.chrom == TEST for site in sites])
    around = np.array(gc)
    return {
        "reb1_auroc": auroc(score, bound),
        "reb1_given_gc": auroc(without(around, score), bound),
        "reb1_auroc_xvi": auroc(score[in_test], bound[in_test]),
        "reb1_gc": auroc(around, bound),
    }


def _gc_around(codes: np.ndarray, place: int, size: int) -> float:
    """Share of G and C among the known bases on either side of a site."""
    sides = np.concatenate(
        [codes[place - AROUND_SITE : place], codes[place + size : place + size + AROUND_SITE]]
    )
    return _gc(sides[sides < dna.N])


def _gc(codes: np.ndarray) -> float:
    return float(np.isin(codes, (dna.C, dna.G)).mean())


def _around(data: SpeciesData, site: Site, length: int) -> np.ndarray:
    """Bases in which the motif begins in the middle, N past the contig's ends."""
    before = length // 2
    if site.forward:
        return codes_with_ends(data, site.chrom, site.start - before, site.start - before + length)
    end = site.start + len(REB1) + before  # its first base is the last on the forward strand
    return dna.reverse_complement(codes_with_ends(data, site.chrom, end - length, end))


def codes_with_ends(data: SpeciesData, chrom: str, start: int, end: int) -> np.ndarray:
    """Bases of a stretch, N where the contig is not."""
    size = data.manifest.whole_contigs[chrom]
    first, last = max(start, 0), min(end, size)
    codes = np.full(end - start, dna.N, dtype=np.uint8)
    codes[first - start : last - start] = data.codes(chrom, first, last)
    return codes


def _roman(chrom: str) -> str:
    """Names of the peaks' contigs are chr1 … chr16, or XVI as others write it, or 'Mito'."""
    number, text = chrom.removeprefix("chr"), ""
    if not number.isdigit():
        return f"chr{number}"
    left = int(number)
    for value, letters in ((10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")):
        text, left = text + letters * (left // value), left % value
    return f"chr{text}"


# ---- Random promoters ----------------------------------------------------------------------------


def dream(
    trained: TrainedModel,
    data: SpeciesData,
    genes: Path,
    promoters: Path,
    at_most: int,
    reporters: int,
) -> dict[str, float]:
    """Correlation of predicted RNA with the expression of promoters put before genes of XVI.

    Zero-shot: of each promoter the mean over genes of the logarithm of the RNA in the gene's first
    bins. at_most: so many promoters, evenly over the file; 0: all. GC and words are of all of them,
    whatever the model is asked of: a part of them is too few for words.
    """
    lines = [line.split("\t") for line in promoters.read_text().splitlines()]
    inserts = [dna.encode(sequence[PROMOTER]) for sequence, _ in lines]
    expression = np.array([float(value) for _, value in lines])
    gc = np.array([_gc(codes) for codes in inserts])
    asked = np.linspace(0, len(lines) - 1, min(at_most or len(lines), len(lines))).astype(int)
    put = [inserts[i] for i in asked]
    length = trained.model.config.seq_length
    tracks = [track.identifier for track in trained.tracks[data.name]]
    rna = np.mean(
        [
            _rna(trained, data, _with(gene, put, length // 2 - UPSTREAM), tracks.index("RNA+"))
            for gene in _genes(data, genes, reporters, length)
        ],
        axis=0,
    )
    return {
        **_of_promoters(rna, expression[asked], gc[asked]),
        "dream_gc": _correlation(gc, expression),
        "dream_words": _of_words(inserts, expression),
    }


def _of_promoters(rna: np.ndarray, expression: np.ndarray, gc: np.ndarray) -> dict[str, float]:
    """Both of INTERVALS with their ends, promoters being drawn again; (N,) each.

    GC content alone says much: what counts is the correlation given it.
    """

    def both(rows: np.ndarray) -> tuple[float, float]:
        x, y = rna[rows], expression[rows]
        return _correlation(x, y), partial_correlation(x, y, gc[rows])

    every = np.arange(len(rna))
    drawn = np.random.default_rng(0).choice(every, (DRAWS, len(every)))
    of_draws = np.array([both(rows) for rows in drawn]).T
    found = {}
    for name, value, draws in zip(INTERVALS, both(every), of_draws, strict=True):
        (low, high), interval = INTERVALS[name], middle_of(draws)
        found |= {name: value, low: interval.low, high: interval.high}
    return found


def _of_words(inserts: list[np.ndarray], expression: np.ndarray) -> float:
    """Correlation of a ridge on words of four bases, fitted to four fifths at a time."""
    words = np.stack([np.bincount(kmer_ids(c, WORD), minlength=4**WORD + 1) for c in inserts])
    ridge, folds = RidgeCV(np.logspace(0, 4, 9)), KFold(5, shuffle=True, random_state=0)
    found = cross_val_predict(ridge, words, expression, cv=folds)
    return _correlation(np.asarray(found), expression)


def _genes(data: SpeciesData, table: Path, count: int, length: int) -> list[np.ndarray]:
    """Bases around the starts of genes of the test chromosome, in the middle, read along them."""
    size = data.manifest.whole_contigs[TEST]
    starts = []
    for line in table.read_text().splitlines():
        chrom, start, _, _, _, strand = line.split("\t")
        if _roman(chrom) == TEST and length <= int(start) <= size - length:
            starts.append((int(start), strand))
    starts.sort()
    found = []
    for i in np.arange(1, count + 1) * len(starts) // (count + 1):  # not those near the ends
        place, strand = starts[i]
        if strand == "+":
            found.append(data.codes(TEST, place - length // 2, place + length // 2))
        else:
            codes = data.codes(TEST, place + 1 - length // 2, place + 1 + length // 2)
            found.append(dna.reverse_complement(codes))
    return found


def _with(gene: np.ndarray, inserts: list[np.ndarray], place: int) -> Iterator[np.ndarray]:
    for insert in inserts:
        codes = gene.copy()
        codes[place : place + len(insert)] = insert
        yield codes


def _rna(
    trained: TrainedModel, data: SpeciesData, sequences: Iterator[np.ndarray], track: int
) -> np.ndarray:
    """log1p of the RNA in the first bins of the gene, of each sequence."""
    model, scale = trained.model, trained.track_scale(data.name)
    first = model.config.target_length // 2
    found: list[Tensor] = []
    together = list(sequences)
    for start in range(0, len(together), BATCH):
        codes = torch.from_numpy(np.stack(together[start : start + BATCH]))
        with torch.no_grad():
            prediction = model({data.name: codes}).prediction[data.name]
        in_means = scale.predicted_in_means(prediction)[:, first : first + GENE_BINS, track]
        found.append(in_means.clamp(min=0).mean(1).log1p())
    return torch.cat(found).numpy()


def partial_correlation(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> float:
    """Correlation of what a straight line in `given` leaves of x and y."""
    return _correlation(without(given, x), without(given, y))


def without(given: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What a straight line in `given` leaves of values, (N,) each."""
    return values - np.polyval(np.polyfit(given, values, 1), given)


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1])
