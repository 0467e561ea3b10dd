"""Hold predicted effects against those measured by saturation mutagenesis."""

from __future__ import annotations

import csv
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from spacescale.console import aligned
from spacescale.errors import UserError
from spacescale.files import new_files, write_json
from spacescale.genome.open_genome import OpenGenome
from spacescale.predict.effect_scores import DISTANCES, Score
from spacescale.predict.effect_tables import (
    effect_cells,
    effect_columns,
    model_record,
    refuse_other_refs,
    rows_to_compare,
)
from spacescale.predict.genomes import genome_for
from spacescale.predict.mpra_elements import LeftOut, Measured, MpraTable, read_mpra
from spacescale.predict.pool import pool_on
from spacescale.predict.predictor import Predictor
from spacescale.predict.tables import require_table_name, table_of
from spacescale.predict.variant_effects import EffectPredictor, Scoring
from spacescale.predict.vcf import Variant, reason_not_there, ref_matches

UNSIGNED: frozenset[Score] = frozenset(
    {"d2", "log_d2", *DISTANCES}
)  # held against the effect's magnitude
FEWEST = 3  # variants that a correlation takes
COLUMNS = ("element", "chrom", "pos", "ref", "alt", "barcodes", "coefficient", "p_value")
ALONE = "the element alone, N around it"


@dataclass(frozen=True)
class Request:
    """Which variants, of which table, in which surroundings."""

    table: Path
    release: str = "GRCh38"
    elements: Sequence[str] = ()  # names or patterns; none: all
    fewest_barcodes: int = 10
    fasta: Path | None = None  # None: the element alone, N around it
    any_genome: bool = False
    tracks: Sequence[str] = ()  # as `Predictor.choose_tracks`; what is correlated is their mean
    devices: tuple[str, ...] = ()  # of a process each; none: the predictor itself


@dataclass(frozen=True)
class Correlation:
    """Predicted with measured effects of one kind of variants of an element; NaN if undefined."""

    element: str
    like: str
    score: Score
    kind: str  # "SNV" or "deletion"
    variants: int
    pearson: float
    spearman: float


def score_mpra(predictor: Predictor, request: Request, scoring: Scoring, out: Path) -> str:
    """Write OUT, and beside it STEM.elements.tsv, STEM.skipped.tsv and STEM.json.

    out: ends with .parquet or .tsv; a row is a variant and a track. Returns a text of the
    correlations. Raises UserError for what cannot be scored, such as a Ref that is not what the
    FASTA has; nothing half-written is left.
    """
    require_table_name(out)
    rows = rows_to_compare(predictor, scoring, request.tracks)
    table = read_mpra(request.table, request.release, request.elements, request.fewest_barcodes)
    genome, pairs, left_out = _placed(predictor, request, table)
    if not pairs:
        raise UserError(f"{request.table}: no variant to score ({_counted(left_out)})")
    effects = EffectPredictor(predictor, genome, scoring, rows)
    others = [out.with_suffix(f".{end}") for end in ("elements.tsv", "skipped.tsv", "json")]
    of_element: dict[str, list[tuple[Measured, dict[Score, float]]]] = defaultdict(list)
    with new_files(out, *others) as (table_file, elements_file, skipped_file, record_file):
        rest = iter(pairs)
        batches = iter(lambda: list(islice(rest, predictor.batch_size)), [])
        measured = (row for row, _ in pairs)
        bar = tqdm(total=len(pairs), unit="variant", desc="scoring", disable=None)
        written = table_of(out)(table_file, [*COLUMNS, *effect_columns(scoring)])
        with closing(written), pool_on(predictor, request.devices) as pool:
            variants = ([variant for _, variant in batch] for batch in batches)
            for _, found in effects.score_batches(variants, pool):
                for effect in found:
                    row = next(measured)
                    for cells in effect_cells(predictor, effect, rows, scoring):
                        written.add([*_cells(row), *cells])
                    means: dict[Score, float] = {
                        s: float(effect.mean[s].mean()) for s in scoring.scores
                    }
                    of_element[row.element].append((row, means))
                bar.update(len(found))
        bar.close()
        correlations = list(_correlations(table, of_element, scoring))
        _write_correlations(elements_file, correlations)
        _write_left_out(skipped_file, left_out)
        record = model_record(predictor, scoring, rows) | _record(request, len(pairs), left_out)
        write_json(record_file, record, indent=1)
    return _text(table, correlations, left_out, request)


def _placed(
    predictor: Predictor, request: Request, table: MpraTable
) -> tuple[OpenGenome, list[tuple[Measured, Variant]], list[LeftOut]]:
    """Where the variants are seen: a genome, rows with their places in it, and rows left out."""
    if request.fasta is None:
        alone = {name: element.codes for name, element in table.elements.items()}
        starts = {name: element.start for name, element in table.elements.items()}
        pairs = [(row, _variant(row, row.element, starts[row.element])) for row in table.measured]
        return OpenGenome(request.table, alone), pairs, table.left_out
    genome = genome_for(predictor, request.fasta, request.any_genome)
    pairs, left_out, wrong = [], list(table.left_out), []
    for row in table.measured:
        contig = row.chrom if row.chrom in genome.contigs else f"chr{row.chrom}"
        variant = _variant(row, contig, 0)
        if reason := reason_not_there(variant, genome):
            left_out.append(LeftOut(row.line, row.element, reason))
            continue
        pairs.append((row, variant))
        if not ref_matches(variant, genome):
            wrong.append(variant)
    refuse_other_refs(request.table, genome, wrong, len(pairs))
    return genome, pairs, sorted(left_out, key=lambda one: one.line)


def _variant(row: Measured, contig: str, origin: int) -> Variant:
    return Variant(row.line, contig, row.start - origin, row.element, row.ref, row.alt)


def _cells(row: Measured) -> list[Any]:
    """Of COLUMNS."""
    return [
        row.element, row.chrom, row.start + 1, row.ref, row.alt or "-", row.barcodes,
        row.coefficient, row.p_value,
    ]  # fmt: skip


def _correlations(
    table: MpraTable,
    found: dict[str, list[tuple[Measured, dict[Score, float]]]],
    scoring: Scoring,
) -> Iterator[Correlation]:
    for name, element in table.elements.items():
        for score in scoring.scores:
            for kind in ("SNV", "deletion"):
                pairs = [
                    (row.coefficient, means[score])
                    for row, means in found[name]
                    if bool(row.alt) == (kind == "SNV")
                ]
                measured, predicted = np.array(pairs).reshape(-1, 2).T
                if score in UNSIGNED:
                    measured = np.abs(measured)
                yield Correlation(
                    name, element.like, score, kind, len(pairs), pearson(measured, predicted),
                    pearson(ranks(measured), ranks(predicted)),
                )  # fmt: skip


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of two (n,); NaN of fewer than three, or where one of them is constant."""
    if len(x) < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, float64 (n,); equal values have the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def _write_correlations(path: Path, correlations: Sequence[Correlation]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(
            ["element", "same_bases_as", "score", "kind", "variants", "pearson", "spearman"]
        )
        for c in correlations:
            numbers = [c.variants, f"{c.pearson:.4f}", f"{c.spearman:.4f}"]
            writer.writerow([c.element, c.like, c.score, c.kind, *numbers])


def _write_left_out(path: Path, left_out: Sequence[LeftOut]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["line", "element", "reason"])
        writer.writerows([one.line, one.element, one.reason] for one in left_out)


def _record(request: Request, scored: int, left_out: Sequence[LeftOut]) -> dict[str, object]:
    return {
        "table": str(request.table),
        "release": request.release,
        "context": ALONE if request.fasta is None else str(request.fasta),
        "scored": scored,
        "skipped": dict(Counter(one.reason for one in left_out)),
    }


def _counted(left_out: Sequence[LeftOut]) -> str:
    reasons = Counter(one.reason for one in left_out)
    return "; ".join(f"{count:,} rows: {reason}" for reason, count in reasons.items()) or "no row"


def _text(
    table: MpraTable,
    correlations: Sequence[Correlation],
    left_out: Sequence[LeftOut],
    request: Request,
) -> str:
    """Correlations as people read them, a line for each element and score."""
    missing = Counter(one.element for one in left_out)
    lines: list[tuple[str, ...]] = [
        ("element", "score", "SNVs", "Pearson", "Spearman", "deletions", "Pearson", "Spearman",
         "left out", "")
    ]  # fmt: skip
    for snv, deletion in zip(correlations[::2], correlations[1::2], strict=True):
        cells = [
            cell
            for c in (snv, deletion)
            for cell in (f"{c.variants:,}", f"{c.pearson:.3f}", f"{c.spearman:.3f}")
        ]
        notes = [f"same bases as {snv.like}"] if snv.like else []
        if request.fasta is None and (unknown := table.elements[snv.element].unknown):
            notes.append(f"{unknown} bp that no row tells are N")
        left = f"{missing[snv.element]:,}"
        lines.append((snv.element, snv.score, *cells, left, "; ".join(notes)))
    text = aligned(lines, left=(0, 1, -1))
    for score in dict.fromkeys(c.score for c in correlations):
        own = [c for c in correlations if c.score == score and c.kind == "SNV" and not c.like]
        known = [c for c in own if not math.isnan(c.pearson)]
        if known:
            r = [
                float(np.mean([getattr(c, kind) for c in known]))
                for kind in ("pearson", "spearman")
            ]
            text.append(
                f"{score}: mean over {len(known)} elements, each once: SNVs' Pearson "
                f"{r[0]:.3f}, Spearman {r[1]:.3f}"
            )
    where = ALONE if request.fasta is None else f"within {request.fasta}"
    return "\n".join([*text, f"seen: {where}; left out: {_counted(left_out)}"])
