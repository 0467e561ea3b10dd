"""Score every variant of a VCF file: a table of effects, one of what was not scored, and a record.

A row is a variant and a track. Tables are written while they are computed.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from spacescale.errors import UserError
from spacescale.files import new_files, sha256, write_json
from spacescale.genome.sequence_files import Genome, read_genome
from spacescale.model.exports import is_export, weight_files
from spacescale.predict.predictor import UNITS, Predictor
from spacescale.predict.variant_effects import (
    MASK_BP,
    SCORES,
    WIDE_ASSAYS,
    WIDE_MASK_BP,
    Effect,
    EffectPredictor,
    Scoring,
)
from spacescale.predict.vcf import Variant, read_vcf, reason_to_skip, ref_matches

LONGEST_ALLELE = 500  # bp
ENDINGS = (".parquet", ".tsv")
ROWS_AT_ONCE = 50_000  # of a table, in memory
MISMATCHES_NAMED = 3


@dataclass(frozen=True)
class Scored:
    """How many alleles were scored, and why others were not."""

    scored: int
    skipped: Counter[str]


def score_variants(
    predictor: Predictor,
    vcf: Path,
    fasta: Path,
    out: Path,
    scoring: Scoring,
    tracks: Sequence[str] = (),
) -> Scored:
    """Write OUT, and beside it STEM.skipped.tsv and STEM.json.

    out: ends with .parquet or .tsv. tracks: as `Predictor.choose_tracks`. Raises UserError for
    what cannot be scored, such as a REF that is not what the genome has; nothing half-written is
    left.
    """
    if out.suffix not in ENDINGS:
        raise UserError(f"--out {out}: expected a name that ends with {' or '.join(ENDINGS)}")
    rows = predictor.choose_tracks(tracks)
    effects = EffectPredictor(predictor, genome := read_genome(fasta), scoring, rows)
    skipped, scorable = _look_through(vcf, genome, fasta)
    others = out.with_suffix(".skipped.tsv"), out.with_suffix(".json")
    columns = _columns(scoring)
    with new_files(out, *others) as (table_file, skipped_file, record_file):
        writer = _Parquet if out.suffix == ".parquet" else _Tsv
        with closing(writer(table_file, columns)) as table:
            bar = tqdm(total=scorable, unit="variant", desc="scoring", disable=None)
            for batch in _batches(vcf, genome, predictor.batch_size):
                found = effects.score(batch)
                for variant, effect in zip(batch, found, strict=True):
                    for place, row in enumerate(rows):
                        table.add(_row(predictor, variant, effect, row, place, scoring))
                bar.update(len(batch))
            bar.close()
        _write_skipped(skipped_file, vcf, genome)
        record = _record(predictor, vcf, fasta, scoring, rows)
        write_json(record_file, record | {"scored": scorable, "skipped": skipped}, indent=1)
    return Scored(scorable, skipped)


def _look_through(vcf: Path, genome: Genome, fasta: Path) -> tuple[Counter[str], int]:
    """Count what is skipped and what can be scored; refuse another genome's variants."""
    skipped: Counter[str] = Counter()
    scorable, wrong = 0, []
    for variant in read_vcf(vcf):
        if reason := reason_to_skip(variant, genome, LONGEST_ALLELE):
            skipped[reason] += 1
            continue
        scorable += 1
        if not ref_matches(variant, genome):
            wrong.append(variant)
    if wrong:
        first = wrong[0]
        there = "".join(
            "ACGTN"[code] for code in genome.contigs[first.chrom][first.start : first.end]
        )
        raise UserError(
            f"{vcf}:{first.line}: {first}: {fasta} has {there} there; REF is what the genome has "
            f"in {scorable - len(wrong):,} of {scorable:,} variants. Is it of another assembly, or "
            "are the alleles swapped?"
        )
    if not scorable:
        why = "; ".join(f"{count:,}: {reason}" for reason, count in skipped.items())
        raise UserError(f"{vcf}: no variant to score ({why or 'the file names none'})")
    return skipped, scorable


def _batches(vcf: Path, genome: Genome, size: int) -> Iterator[list[Variant]]:
    batch: list[Variant] = []
    for variant in read_vcf(vcf):
        if reason_to_skip(variant, genome, LONGEST_ALLELE):
            continue
        batch.append(variant)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _columns(scoring: Scoring) -> list[str]:
    scores = [name for score in scoring.scores for name in (score, f"{score}_sd")]
    return [
        "chrom", "pos", "id", "ref", "alt", "species", "track", "identifier", "assay",
        "ref_sum", "alt_sum", *scores, "averages",
    ]  # fmt: skip


def _row(
    predictor: Predictor, variant: Variant, effect: Effect, row: int, place: int, scoring: Scoring
) -> list[Any]:
    track = predictor.tracks[row]
    scores = [
        float(part[score][place])
        for score in scoring.scores
        for part in (effect.mean, effect.spread)
    ]
    return [
        variant.chrom, variant.start + 1, variant.name, variant.ref, variant.alt,
        predictor.species, row, track.identifier, track.assay,
        float(effect.ref[place]), float(effect.alt[place]), *scores, effect.averages,
    ]  # fmt: skip


def _write_skipped(path: Path, vcf: Path, genome: Genome) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["line", "chrom", "pos", "id", "ref", "alt", "reason"])
        for v in read_vcf(vcf):
            if reason := reason_to_skip(v, genome, LONGEST_ALLELE):
                writer.writerow([v.line, v.chrom, v.start + 1, v.name, v.ref, v.alt, reason])


def _record(
    predictor: Predictor, vcf: Path, fasta: Path, scoring: Scoring, rows: Sequence[int]
) -> dict[str, Any]:
    """What the numbers are, for whoever finds the table later."""
    source = predictor.trained.source
    weights = weight_files(source) if is_export(source) else []
    wide = f"{WIDE_MASK_BP} for {', '.join(sorted(WIDE_ASSAYS))}, {MASK_BP} for others"
    return {
        "model": str(source),
        "model_sha256": {path.name: sha256(path) for path in weights},
        "species": predictor.species,
        "vcf": str(vcf),
        "fasta": str(fasta),
        "fasta_sha256": sha256(fasta),
        "unit": f"{scoring.unit}: {UNITS[scoring.unit]}",
        "pseudocount": scoring.pseudocount,
        "mask_bp": scoring.mask_bp or wide,
        "shifts": list(scoring.shifts),
        "strands": "both",
        "scores": {score: SCORES[score][0] for score in scoring.scores},
        "tracks": len(rows),
    }


class _Table(Protocol):
    def __init__(self, path: Path, columns: Sequence[str]): ...
    def add(self, row: Sequence[Any]) -> None: ...
    def close(self) -> None: ...


class _Tsv:
    def __init__(self, path: Path, columns: Sequence[str]):
        self.file = path.open("w", newline="")
        self.writer = csv.writer(self.file, delimiter="\t", lineterminator="\n")
        self.writer.writerow(columns)

    def add(self, row: Sequence[Any]) -> None:
        self.writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row])

    def close(self) -> None:
        self.file.close()


class _Parquet:
    def __init__(self, path: Path, columns: Sequence[str]):
        self.arrow, self.parquet = _pyarrow()
        self.path, self.columns = path, columns
        self.waiting: list[Sequence[Any]] = []
        self.writer: Any = None

    def add(self, row: Sequence[Any]) -> None:
        self.waiting.append(row)
        if len(self.waiting) == ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        columns = dict(zip(self.columns, zip(*self.waiting, strict=True), strict=True))
        table = self.arrow.table({name: list(cells) for name, cells in columns.items()})
        if self.writer is None:
            self.writer = self.parquet.ParquetWriter(str(self.path), table.schema)
        self.writer.write_table(table)
        self.waiting = []

    def close(self) -> None:
        if self.waiting:
            self._flush()
        if self.writer is not None:
            self.writer.close()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            "Parquet is written by pyarrow: pip install 'spacescale[predict]', or let --out end "
            "with .tsv"
        ) from None
    return pyarrow, pyarrow.parquet
