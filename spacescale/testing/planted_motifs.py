"""What predict, score-variants, attribute and embed find of planted motifs, held against the truth.

    python -m spacescale.testing.planted_motifs runs/demo/export

Motifs of the simulated grammar are planted, on either strand, into random bases that hold none.
What each of them does to each track is known (`expected_signal`); the tools are asked for the same.
They write their files as the commands do, and these are read back. Four questions of each:

effect: Pearson's r of the effects that it finds with the true ones.
orientation: the share of motifs acting on one strand whose strand it names; 0.5 is chance.
own: the size of effects that it finds of the motif that acts in this species alone, over the true.
species: the size of effects that it finds of motifs that act in another species alone, over that of
the species' own such motif: 0 where it knows the species, 1 where it does not.

Shapes: P plantings, T tracks, L bases. Effects are in multiples of track means, summed over bins.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np

from spacescale import console
from spacescale.genome.bigwig import BigWig
from spacescale.genome.dna import encode, reverse_complement
from spacescale.predict import region_attributions, region_tracks
from spacescale.predict.effect_tables import score_variants
from spacescale.predict.predictor import Predictor
from spacescale.predict.sequence_embeddings import embed, read_sequences
from spacescale.predict.trained_model import load_trained
from spacescale.predict.variant_effects import MASK_BP, WIDE_ASSAYS, WIDE_MASK_BP, Scoring
from spacescale.testing.simulated_genomes import (
    MOTIFS,
    Motif,
    SpeciesGrammar,
    expected_signal,
    find_motif,
    grammar_of,
)

LETTERS = np.array(list("ACGTN"))
MOTIF_BP = len(MOTIFS[0].full)
FLANK_BP = 16  # beside a motif, attributed with it
BESIDE_BP = (20, 200)  # from a motif's start: variants there break nothing
RIDGE = 30.0  # penalty, of features scaled to a standard deviation of 1


@dataclass(frozen=True)
class Planting:
    """Bases, uint8 (L,), with one motif in their middle, or with none."""

    name: str
    codes: np.ndarray
    motif: Motif | None = None
    start: int = 0  # of the motif


@dataclass(frozen=True)
class Found:
    """One tool's answers to the four questions, in one species."""

    effect: float
    orientation: float
    own: float
    species: float


def plant(grammar: SpeciesGrammar, length: int, copies: int, seed: int) -> list[Planting]:
    """So many backgrounds (length,), each bare and then with each motif on either strand."""
    rng, planted, start = np.random.default_rng(seed), [], (length - MOTIF_BP) // 2
    for copy in range(copies):
        bare = _background(grammar.gc, length, rng)
        planted.append(Planting(f"bare_{copy}", bare))
        for motif in MOTIFS:
            forward = encode(motif.full)
            for strand, site in (("plus", forward), ("minus", reverse_complement(forward))):
                codes = bare.copy()
                codes[start : start + MOTIF_BP] = site
                planted.append(Planting(f"{motif.name}_{strand}_{copy}", codes, motif, start))
    return planted


def _background(gc: float, length: int, rng: np.random.Generator) -> np.ndarray:
    at = (1 - gc) / 2
    while True:
        codes = rng.choice(4, size=length, p=(at, gc / 2, gc / 2, at)).astype(np.uint8)
        if not any(len(find_motif(codes, motif)[0]) for motif in MOTIFS):
            return codes


def found_by_predict(predictor: Predictor, folder: Path) -> Found:
    """By sums over the predicted span with a motif in its middle, less those without it."""
    grammar, span = grammar_of(predictor.species), predictor.span
    planted = plant(grammar, 3 * span, copies=6, seed=0)
    request = region_tracks.Request(
        fasta=_write_fasta(folder / "predict.fa", planted),
        places=[f"{one.name}:{span}-{2 * span}" for one in planted],
        any_genome=True,
    )
    files = region_tracks.predict(predictor, request, folder / "predicted")
    sums = np.empty((len(planted), len(files)))
    for column, path in enumerate(files):
        with BigWig(path) as bigwig:
            for row, one in enumerate(planted):
                sums[row, column] = bigwig.read(one.name, span, 2 * span).sum()
    truth = np.stack([_signal(predictor, one.codes)[:, span : 2 * span].sum(1) for one in planted])
    return _answers(grammar, *_effects(planted, sums / predictor.bin_size, truth))


def found_by_variants(predictor: Predictor, folder: Path, copies: int = 2) -> Found:
    """By log2 ratios of variants that break a motif, and of as many beside it that break nothing.

    What breaks an effect is counted as the effect, so with its sign turned. copies: of every motif
    on either strand.
    """
    grammar, rng = grammar_of(predictor.species), np.random.default_rng(1)
    planted = [one for one in plant(grammar, 2 * predictor.window, copies, seed=1) if one.motif]
    fasta, vcf = _write_fasta(folder / "variants.fa", planted), folder / "variants.vcf"
    lines, truth, whose = ["##fileformat=VCFv4.2"], [], []
    for one in planted:
        for at in one.start + np.array([rng.integers(MOTIF_BP), -rng.integers(*BESIDE_BP)]):
            mutant = one.codes.copy()
            mutant[at] = (mutant[at] + rng.integers(1, 4)) % 4
            alleles = LETTERS[[one.codes[at], mutant[at]]]
            lines.append("\t".join([one.name, str(at + 1), ".", *alleles]))
            sums = (_masked_sums(predictor, codes, int(at)) for codes in (mutant, one.codes))
            truth.append(-np.log2(np.divide(*(each + 1 for each in sums))))
            whose.append(one)
    vcf.write_text("\n".join([*lines, ""]))
    scoring, effects = Scoring(unit="means"), folder / "effects.tsv"
    score_variants(predictor, vcf, fasta, effects, scoring, any_genome=True)
    with effects.open(newline="") as file:
        scores = [float(row["log2_ratio"]) for row in csv.DictReader(file, delimiter="\t")]
    return _answers(grammar, whose, -np.reshape(scores, (len(whose), -1)), np.array(truth))


def found_by_attribute(predictor: Predictor, folder: Path) -> Found:
    """By mutagenesis of a motif and its neighbours, for the tracks that it acts on most.

    The effect is that of each substitution; orientation and species are of sums over the bases.
    """
    grammar = grammar_of(predictor.species)
    planted = [one for one in plant(grammar, 2 * predictor.window, copies=1, seed=2) if one.motif]
    fasta = _write_fasta(folder / "attribute.fa", planted)
    sums = np.zeros((2, len(planted), len(grammar.tracks)))  # found and true
    maps: list[list[np.ndarray]] = [[], []]
    for column, track in enumerate(grammar.tracks):
        asked = [row for row, one in enumerate(planted) if column in _most_acted_on(grammar, one)]
        if not asked:
            continue
        out, places = folder / track.identifier, [_around(planted[row]) for row in asked]
        request = region_attributions.Request(
            fasta=fasta,
            places=[f"{planted[r].name}:{a}-{b}" for r, (a, b) in zip(asked, places, strict=True)],
            tracks=[track.identifier],
            figures=False,
            any_genome=True,
        )
        region_attributions.attribute(predictor, request, out)
        files = (out / f"modisco.{what}.npz" for what in ("sequences", "attributions"))
        for row, bases, values in zip(asked, *(np.load(f)["arr_0"] for f in files), strict=True):
            truth = _true_mutagenesis(predictor, planted[row], column)
            for kind, each in enumerate((values, truth)):
                maps[kind].append(each)
                sums[kind, row, column] = region_attributions.contributions(
                    bases, each, "ism"
                ).sum()
    by_base = _pearson(np.array(maps[0]), np.array(maps[1]))
    answers = _answers(grammar, planted, *sums)
    return replace(answers, effect=by_base)


def found_by_embed(predictor: Predictor, folder: Path) -> Found:
    """By a ridge from features of 512 bp to effects, asked of backgrounds that it has not seen."""
    grammar, length = grammar_of(predictor.species), 512
    planted = plant(grammar, length, copies=30, seed=3)
    sequences = read_sequences(_write_fasta(folder / "embed.fa", planted))
    embed(predictor, sequences, folder / "features.npz")
    features = np.load(folder / "features.npz")["features"].astype(np.float64)
    truth = np.stack([_signal(predictor, one.codes).sum(1) for one in planted])
    seen = len(planted) * 2 // 3
    x = (features - features[:seen].mean(0)) / (features[:seen].std(0) + 1e-6)
    square = x[:seen].T @ x[:seen] + RIDGE * np.eye(x.shape[1])
    read = x @ np.linalg.solve(square, x[:seen].T @ (truth - truth[:seen].mean(0))[:seen])
    return _answers(grammar, *_effects(planted[seen:], read[seen:], truth[seen:]))


TOOLS: dict[str, Callable[[Predictor, Path], Found]] = {
    "predict": found_by_predict,
    "score-variants": found_by_variants,
    "attribute": found_by_attribute,
    "embed": found_by_embed,
}


def _effects(
    planted: Sequence[Planting], found: np.ndarray, truth: np.ndarray
) -> tuple[list[Planting], np.ndarray, np.ndarray]:
    """Those with a motif, and values (P, T) less those of their background without one."""
    block = 1 + 2 * len(MOTIFS)  # bare, then motifs
    parts = [values.reshape(-1, block, values.shape[1]) for values in (found, truth)]
    less_bare = [(part[:, 1:] - part[:, :1]).reshape(-1, part.shape[2]) for part in parts]
    return [one for one in planted if one.motif], less_bare[0], less_bare[1]


def _answers(
    grammar: SpeciesGrammar, planted: Sequence[Planting], found: np.ndarray, truth: np.ndarray
) -> Found:
    """Effects (P, T), found and true, of what was planted → answers to the four questions."""
    right: list[bool] = []
    for plus, minus in enumerate(grammar.strand_pairs):
        if plus < minus:
            leads = [part[:, plus] - part[:, minus] for part in (found, truth)]
            right += (leads[0] * leads[1] > 0)[leads[1] != 0].tolist()
    own, acting = f"{grammar.name}_only", _acted_on(grammar, f"{grammar.name}_only")
    names = np.array([one.motif.name if one.motif else "" for one in planted])
    is_own, is_foreign = names == own, np.char.endswith(names, "_only") & (names != own)
    foreign_size, own_size = (_size(found[rows][:, acting]) for rows in (is_foreign, is_own))
    return Found(
        effect=_pearson(found, truth),
        orientation=float(np.mean(right)),
        own=own_size / _size(truth[is_own][:, acting]),
        species=foreign_size / own_size,
    )


def _size(effects: np.ndarray) -> float:
    return float(np.abs(effects).mean())


def _pearson(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.corrcoef(found.ravel(), truth.ravel())[0, 1])


def _acted_on(grammar: SpeciesGrammar, motif: str) -> list[int]:
    return [row for row, track in enumerate(grammar.tracks) if motif in track.weights]


def _most_acted_on(grammar: SpeciesGrammar, one: Planting) -> list[int]:
    """Tracks to attribute a motif for; of one of another species, those of the species' own."""
    assert one.motif is not None
    name = one.motif.name
    if name.endswith("_only"):
        name = f"{grammar.name}_only"
    weights = {row: grammar.tracks[row].weights[name] for row in _acted_on(grammar, name)}
    return [row for row, weight in weights.items() if weight == max(weights.values())]


def _signal(predictor: Predictor, codes: np.ndarray) -> np.ndarray:
    """True signal (T, L), such that its sum over bases is the sum over bins in track means."""
    means = np.array([track.mean for track in predictor.tracks])[:, None]
    return expected_signal(codes, predictor.species) / means / predictor.bin_size


def _masked_sums(predictor: Predictor, codes: np.ndarray, at: int) -> np.ndarray:
    """True sums (T,) over the bins that the mask of `score-variants` at a base touches."""
    size, bins = predictor.bin_size, predictor.span // predictor.bin_size
    first, sums = at - size // 2, []  # where the base's bin begins
    for row, track in zip(_signal(predictor, codes), predictor.tracks, strict=True):
        mask = WIDE_MASK_BP if track.assay in WIDE_ASSAYS else MASK_BP
        reach = (mask // 2 + size // 2) // size  # bins on either side
        left, right = min(reach, bins // 2), min(reach, bins - bins // 2 - 1)
        sums.append(row[first - left * size : first + (right + 1) * size].sum())
    return np.array(sums)


def _around(one: Planting) -> tuple[int, int]:
    return one.start - FLANK_BP, one.start + MOTIF_BP + FLANK_BP


def _true_mutagenesis(predictor: Predictor, one: Planting, column: int) -> np.ndarray:
    """Changes (4, bases) by each substitution around a motif, over the bins that touch it."""
    start, end = _around(one)
    size = predictor.bin_size
    margin = (predictor.window - predictor.span) // 2
    grid = start - (predictor.window - (end - start)) // 2 + margin  # where the first bin begins
    first, last = (start - grid) // size * size + grid, -(-(end - grid) // size) * size + grid
    before = _signal(predictor, one.codes)[column, first:last].sum()
    changes = np.zeros((4, end - start))
    for at in range(start, end):
        for base in range(4):
            mutant = one.codes.copy()
            mutant[at] = base
            after = _signal(predictor, mutant)[column, first:last].sum()
            changes[base, at - start] = after - before
    return changes


def _write_fasta(path: Path, planted: Sequence[Planting]) -> Path:
    path.write_text("".join(f">{one.name}\n{''.join(LETTERS[one.codes])}\n" for one in planted))
    return path


def main() -> int:
    """Ask each tool of each species, and print the answers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("weights", type=Path, help="of the demo: an export, checkpoint or run")
    trained = load_trained(parser.parse_args().weights)
    rows: list[tuple[str, ...]] = [
        ("species", "tool", "effect", "orientation", "own", "other species'")
    ]
    for species in trained.model.species:
        predictor = Predictor(trained, species, batch_size=16)
        for tool, ask in TOOLS.items():
            with tempfile.TemporaryDirectory() as folder:
                found = ask(predictor, Path(folder))
            rows.append((species, tool, *(f"{value:.2f}" for value in astuple(found))))
    print("\n".join(console.aligned(rows, left=(0, 1))))
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
