"""`spacescale embed`: features of sequences, for whatever learns from them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from spacescale.errors import UserError
from spacescale.files import new_files
from spacescale.genome.dna import encode
from spacescale.genome.sequence_files import read_genome
from spacescale.genome.text_files import LONGEST_LINE, text_lines
from spacescale.predict.genomes import genome_for
from spacescale.predict.predictor import Predictor
from spacescale.predict.regions import bases, read_places

Pool = Literal["mean", "max", "sum", "none"]
TABLES = (".csv", ".tsv")
COLUMN = "sequence"


@dataclass(frozen=True)
class Named:
    """A sequence, codes uint8 (L,), and what it is called."""

    name: str
    codes: np.ndarray


def read_sequences(path: Path) -> list[Named]:
    """The records of a FASTA or 2bit file, or the column `sequence` of a .csv or .tsv table.

    Rows of a table are called by their number from 1, without the header. Raises UserError naming
    file and line.
    """
    if path.suffix.lower() in TABLES:
        return list(_from_table(path))
    return [Named(name, codes) for name, codes in read_genome(path).contigs.items()]


def _from_table(path: Path) -> Iterator[Named]:
    lines = text_lines(path, "a table of sequences")
    csv.field_size_limit(LONGEST_LINE)
    delimiter = "," if path.suffix.lower() == ".csv" else "\t"
    rows = csv.reader((line for _, line in lines), delimiter=delimiter)
    header = next(rows, [])
    if COLUMN not in header:
        raise UserError(f"{path}:1: no column {COLUMN!r}; it has {', '.join(header) or 'none'}")
    column = header.index(COLUMN)
    for number, cells in enumerate(rows, start=1):
        if not cells:
            continue
        if len(cells) <= column:
            raise UserError(
                f"{path}:{number + 1}: {len(cells)} cells; the header has {len(header)}"
            )
        if not cells[column]:
            raise UserError(f"{path}:{number + 1}: a sequence of 0 bp")
        yield Named(str(number), encode(cells[column], f"{path}:{number + 1}"))


def sequences_of_places(
    predictor: Predictor, fasta: Path, words: Sequence[str], any_genome: bool = False
) -> list[Named]:
    """Places of a genome, see `read_places` and `genome_for`, called CONTIG:START-END."""
    genome = genome_for(predictor, fasta, any_genome)
    return [
        Named(str(p).replace(",", ""), bases(genome.contigs[p.chrom], p.start, p.end - p.start))
        for p in read_places(words, genome)
    ]


def embed(
    predictor: Predictor,
    sequences: Sequence[Named],
    out: Path,
    layer: str = "pointwise",
    pool: Pool = "mean",
    both_strands: bool = False,
) -> tuple[int, ...]:
    """Write an .npz of `names` (N,) and `features` float32 (N, C); with pool none (N, positions, C)

    pool: over positions. Returns the shape of the features. Raises UserError for no sequence, or
    for several lengths without pooling.
    """
    if out.suffix != ".npz":
        raise UserError(f"--out {out}: expected a name that ends with .npz")
    lengths = sorted({len(one.codes) for one in sequences})
    if not lengths:
        raise UserError("no sequence to embed")
    if pool == "none" and len(lengths) > 1:
        raise UserError(
            f"sequences of {lengths[0]} to {lengths[-1]} bp: --pool none needs one length"
        )
    with new_files(out) as (part,):
        rows: list[np.ndarray | None] = [None] * len(sequences)
        bar = tqdm(total=len(sequences), unit="sequence", desc="embedding", disable=None)
        for length in lengths:
            places = [i for i, one in enumerate(sequences) if len(one.codes) == length]
            for first in range(0, len(places), predictor.batch_size):
                batch = places[first : first + predictor.batch_size]
                codes = np.stack([sequences[i].codes for i in batch])
                found = _pooled(predictor.embed(codes, layer, both_strands), pool)
                for i, row in zip(batch, found, strict=True):
                    rows[i] = row
                bar.update(len(batch))
        bar.close()
        features = np.stack([row for row in rows if row is not None])
        with part.open("wb") as file:
            np.savez(file, names=np.array([one.name for one in sequences]), features=features)
    return features.shape


def _pooled(features: np.ndarray, pool: Pool) -> np.ndarray:
    """(B, positions, C) → (B, C), or as it is."""
    if pool == "none":
        return features
    return {"mean": np.mean, "max": np.max, "sum": np.sum}[pool](features, axis=1)
