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
from typing import Any

from tqdm import tqdm

from spacescale.errors import UserError
from spacescale.files import new_files, sha256, write_json
from spacescale.genome.open_genome import OpenGenome
from spacescale.model.exports import is_export, weight_files
from spacescale.predict.effect_scores import DISTANCES, LIKELIHOODS, TRACK_SCORES
from spacescale.predict.genomes import genome_for
from spacescale.predict.pool import pool_on
from spacescale.predict.predictor import UNITS, Predictor
from spacescale.predict.tables import require_table_name, table_of
from spacescale.predict.variant_effects import (
    MASK_BP,
    WIDE_ASSAYS,
    WIDE_MASK_BP,
    Effect,
    EffectPredictor,
    Scoring,
)
from spacescale.predict.vcf import Variant, read_vcf, reason_to_skip, ref_matches

LONGEST_ALLELE = 500  # bp


@dataclass(frozen=True)
class Scored:
    """How many alleles were scored, and why others were not.

    unlikely: of the scored, those that have no score of likelihood although one was asked for, as
    they are no SNVs.
    """

    scored: int
    skipped: Counter[str]
    unlikely: int = 0


def score_variants(
    predictor: Predictor,
    vcf: Path,
    fasta: Path,
    out: Path,
    scoring: Scoring,
    tracks: Sequence[str] = (),
    any_genome: bool = False,
    devices: Sequence[str] = (),
) -> Scored:
    """Write OUT, and beside it STEM.skipped.tsv and STEM.json.

    out: ends with .parquet or .tsv. tracks: as `Predictor.choose_tracks`. any_genome: also one
    that contradicts what the model was trained on. devices: of a process each, none for the
    predictor itself. Raises UserError for what cannot be scored, such as a REF that is not what
    the genome has; nothing half-written is left.
    """
    require_table_name(out)
    rows = rows_to_compare(predictor, scoring, tracks)
    genome = genome_for(predictor, fasta, any_genome)
    effects = EffectPredictor(predictor, genome, scoring, rows)
    skipped, scorable = _look_through(vcf, genome)
    others = out.with_suffix(".skipped.tsv"), out.with_suffix(".json")
    columns = ["chrom", "pos", "id", "ref", "alt", *effect_columns(scoring)]
    with new_files(out, *others) as (table_file, skipped_file, record_file):
        table = table_of(out)(table_file, columns)
        with closing(table), pool_on(predictor, devices) as pool:
            bar = tqdm(total=scorable, unit="variant", desc="scoring", disable=None)
            unlikely = 0
            batches = _batches(vcf, genome, predictor.batch_size)
            for batch, found in effects.score_batches(batches, pool):
                for variant, effect in zip(batch, found, strict=True):
                    own = variant.chrom, variant.start + 1, variant.name, variant.ref, variant.alt
                    for cells in effect_cells(predictor, effect, rows, scoring):
                        table.add([*own, *cells])
                    unlikely += bool(scoring.likelihoods) and not variant.is_snv
                bar.update(len(batch))
            bar.close()
        _write_skipped(skipped_file, vcf, genome)
        record = model_record(predictor, scoring, rows) | {
            "vcf": str(vcf),
            "fasta": str(fasta),
            "fasta_sha256": sha256(fasta),
            "scored": scorable,
            "skipped": skipped,
            "without_likelihood": unlikely,
        }
        write_json(record_file, record, indent=1)
    return Scored(scorable, skipped, unlikely)


def _look_through(vcf: Path, genome: OpenGenome) -> tuple[Counter[str], int]:
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
    refuse_other_refs(vcf, genome, wrong, scorable)
    if not scorable:
        why = "; ".join(f"{count:,}: {reason}" for reason, count in skipped.items())
        raise UserError(f"{vcf}: no variant to score ({why or 'the file names none'})")
    return skipped, scorable


def refuse_other_refs(
    table: Path, genome: OpenGenome, wrong: Sequence[Variant], total: int
) -> None:
    """Raise UserError where variants of a table have another REF than the genome.

    wrong: those that have, of `total`.
    """
    if not wrong:
        return
    first = wrong[0]
    there = "".join("ACGTN"[code] for code in genome.contigs[first.chrom][first.start : first.end])
    raise UserError(
        f"{table}:{first.line}: {first}: {genome.path} has {there} there; REF is what the genome "
        f"has in {total - len(wrong):,} of {total:,} variants. Is it of another assembly, or are "
        "the alleles swapped?"
    )


def _batches(vcf: Path, genome: OpenGenome, size: int) -> Iterator[list[Variant]]:
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


def rows_to_compare(predictor: Predictor, scoring: Scoring, words: Sequence[str]) -> list[int]:
    """Rows of the tracks that words ask for; none where no score looks at tracks.

    Raises UserError as `Predictor.choose_tracks`, and for tracks that no score looks at.
    """
    if scoring.of_tracks:
        return predictor.choose_tracks(words)
    if words:
        raise UserError(
            f"--tracks {' '.join(words)}: {', '.join(scoring.scores)} do not look at tracks"
        )
    return []


def effect_columns(scoring: Scoring) -> list[str]:
    """Names of what `effect_cells` gives."""
    track = ["track", "identifier", "assay", "ref_sum", "alt_sum"] if scoring.of_tracks else []
    scores = [name for score in scoring.scores for name in (score, f"{score}_sd")]
    return ["species", *track, *scores, "averages"]


def effect_cells(
    predictor: Predictor, effect: Effect, rows: Sequence[int], scoring: Scoring
) -> Iterator[list[Any]]:
    """Cells of an effect, for each of the tracks, or once where none are compared."""
    for place, row in enumerate(rows or [None]):
        track = []
        if row is not None:
            known = predictor.tracks[row]
            sums = float(effect.ref[place]), float(effect.alt[place])
            track = [row, known.identifier, known.assay, *sums]
        scores = [
            float(part[score][place if score in TRACK_SCORES else 0])
            for score in scoring.scores
            for part in (effect.mean, effect.spread)
        ]
        yield [predictor.species, *track, *scores, effect.averages]


def _write_skipped(path: Path, vcf: Path, genome: OpenGenome) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["line", "chrom", "pos", "id", "ref", "alt", "reason"])
        for v in read_vcf(vcf):
            if reason := reason_to_skip(v, genome, LONGEST_ALLELE):
                writer.writerow([v.line, v.chrom, v.start + 1, v.name, v.ref, v.alt, reason])


def model_record(predictor: Predictor, scoring: Scoring, rows: Sequence[int]) -> dict[str, Any]:
    """What the numbers are, for whoever finds the table later."""
    source = predictor.trained.source
    weights = weight_files(source) if is_export(source) else []
    every_score = {**TRACK_SCORES, **DISTANCES, **LIKELIHOODS}
    wide = f"{WIDE_MASK_BP} for {', '.join(sorted(WIDE_ASSAYS))}, {MASK_BP} for others"
    return {
        "model": str(source),
        "model_sha256": {path.name: sha256(path) for path in weights},
        "species": predictor.species,
        "unit": f"{scoring.unit}: {UNITS[scoring.unit]}",
        "pseudocount": scoring.pseudocount,
        "mask_bp": scoring.mask_bp or wide,
        "shifts": list(scoring.shifts),
        "strands": "both",
        "scores": {score: every_score[score][0] for score in scoring.scores},
        "layer": scoring.layer if scoring.distances else None,
        "tracks": len(rows),
    }
