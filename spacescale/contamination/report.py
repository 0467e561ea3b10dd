"""`spacescale contamination`: which sequences of a benchmark the training of a model has seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spacescale.contamination.gaps import Gaps
from spacescale.contamination.seen import VALID, Stretch, Training, read_training, seen_windows
from spacescale.contamination.sequences import Hit, decoys, digest_of, read_queries
from spacescale.contamination.summary import in_words, table, what_was_read
from spacescale.contamination.verdicts import DEFAULT_LIMITS, Limits, Result, Searched, judge
from spacescale.errors import UserError
from spacescale.files import new_files, require_absent
from spacescale.model.exports import local_folder
from spacescale.predict.tables import require_table_name, table_of
from spacescale.tasks.genome_places import Genomes
from spacescale.tasks.task import Kind

MOST_DECOYS = 2000  # of each split
_COLUMNS = (
    "task", "split", "sequence", "bp", "verdict", "identity", "aligned_bp", "species", "place",
    "strand", "seen_as", "times_in_target", "times_in_input", "other_splits", "valid_identity",
    "valid_aligned_bp", "valid_place", "sequence_digest", "weights", "weights_digest",
    "not_searched", "not_known", "limits",
)  # fmt: skip


def contamination(
    weights: Path,
    sequences: Sequence[Path],
    data_paths: Sequence[Path] = (),
    out: Path | None = None,
    steps: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    genome: Genomes | None = None,
    kind: Kind | None = None,
) -> str:
    """Say which sequences the training of a model has seen, or their like; returns a summary.

    out: table (.tsv or .parquet) to write, a row for each sequence. steps: what the run had read
    after so many. genome, kind: of tasks, see `read_task`. The background of the summary is the
    share of sequences read backwards that are found in the same way. By digests in the table
    `finetune --seen` knows sequences and weights again, and by the columns `not_searched` (species
    whose windows training read and whose data were not given) and `not_known` what a verdict
    `none` does not rule out, and by `limits` from where on a sequence counted; these are the same
    in every row.

    Recall by the default limits, 200 copies each of stretches of the yeast genome (12 Mb), either
    strand, searched in all of it: all at identities of 1 and 0.95; at 0.8 by substitutions 99.5 %
    of 70 bp and all of 200 and 500 bp; at 0.8 with one in five edits a base inserted or deleted
    96 % of 70, 98.5 % of 200 and all of 500 bp. Of the copies read backwards 0.2 % are found.

    Raises UserError for weights, data or sequences that cannot be read or do not belong together.
    """
    if out is not None:
        require_table_name(out)
        require_absent(out)
    queries = read_queries(sequences, genome, kind)
    if not queries:
        raise UserError(f"{', '.join(map(str, sequences))}: no sequence")
    training = read_training(local_folder(weights), steps)
    seen, gaps = seen_windows(training, data_paths)
    searched = Searched(seen)
    background = decoys(queries, MOST_DECOYS)
    results = judge([*queries, *background], searched, limits)
    results, by_chance = results[: len(queries)], results[len(queries) :]
    if out is not None:
        with new_files(out) as (part,):
            _write(part, out, results, searched, training, gaps, limits)
    lines = [what_was_read(training, seen), *gaps.notes]
    lines += ["", *table(results, by_chance, searched, limits), ""]
    lines += in_words(results, by_chance, limits, gaps)
    return "\n".join(lines)


def _write(
    part: Path,
    out: Path,
    results: Sequence[Result],
    searched: Searched,
    training: Training,
    gaps: Gaps,
    limits: Limits,
) -> None:
    table = table_of(out)(part, _COLUMNS)
    for result in results:
        query, hit, valid = result.query, result.train or result.valid, result.valid
        cells = [query.task, query.split, query.name, query.codes.size, result.verdict]
        cells += _cells_of(hit, searched) if hit else [None] * 9
        place = _place(*searched.place(valid)) if valid else None
        cells += [valid.identity, valid.aligned_bp, place] if valid else [None] * 3
        cells += [digest_of(query.codes), training.name, training.digest]
        cells += [", ".join(gaps.not_searched) or None, "; ".join(gaps.not_known) or None]
        cells.append(limits.in_words())
        table.add(cells)
    table.close()


def _cells_of(hit: Hit, searched: Searched) -> list[str | int | float | None]:
    stretch, start, end = searched.place(hit)
    windows = searched.seen[stretch.data.name]
    in_target, in_input, others = windows.readings(stretch.contig.name, (start + end) // 2)
    seen_as = "validation" if stretch.kind == VALID else "target" if in_target else "context"
    return [
        hit.identity,
        hit.aligned_bp,
        stretch.data.name,
        _place(stretch, start, end),
        "-" if hit.reverse else "+",
        seen_as,
        in_target if windows.counted else None,
        in_input if windows.counted else None,
        ",".join(others),
    ]


def _place(stretch: Stretch, start: int, end: int) -> str:
    return f"{stretch.contig.name}:{start}-{end}"
