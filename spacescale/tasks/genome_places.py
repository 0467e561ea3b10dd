"""Tasks that give places of a genome, not sequences: Genomic Benchmarks and BEND.

Places are 0-based half-open; what lies on the minus strand is reverse complemented.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from spacescale.errors import UserError
from spacescale.genome.aliases import match_styles, suggest
from spacescale.genome.dna import reverse_complement
from spacescale.genome.open_genome import OpenGenome, open_genome
from spacescale.genome.text_files import whole_number
from spacescale.tasks.class_files import Gathered, class_files, class_of, class_splits
from spacescale.tasks.hdf5_files import open_hdf5
from spacescale.tasks.loci import CONTIG_COLUMNS, STRANDS
from spacescale.tasks.rows import Column, Found, Rows
from spacescale.tasks.table_rows import split_words, table_rows
from spacescale.tasks.tables import Table, form_of, read_table, stem_of

# BEND's enhancers have a label for each bin of so many bp; so many labels are no chance.
BINNED_BP, FEWEST_BINS = 128, 100
Genomes = Path | Mapping[str, Path]  # one for all, or {class: its own}
_URL = re.compile(r"^\s*url:\s*(\S+)", re.MULTILINE)


def coordinate_files(folder: Path) -> list[Path]:
    """Tables {train,test}/CLASS.csv[.gz] of a folder."""
    return class_files(folder, lambda path: path.is_file() and form_of(path) == ".csv")


def read_coordinates(folder: Path, genome: Genomes | None) -> Found:
    """Read coordinate_files of Genomic Benchmarks: columns id, region, start, end, strand."""
    files_of = class_splits(folder, coordinate_files(folder))
    classes = dict.fromkeys(class_of(path) for files in files_of.values() for path in files)
    opened = _opened_for(folder, classes, genome)
    splits = {}
    for split, files in files_of.items():
        gathered = Gathered()
        for path in files:
            gathered.add(class_of(path), _placed(read_table(path), opened[class_of(path)]))
        splits[split] = gathered.rows
    return Found(splits)


def bed_files(folder: Path) -> list[Path]:
    """The .bed files of a folder."""
    return [path for path in sorted(folder.iterdir()) if form_of(path) == ".bed"]


def read_bend(path: Path, genome: Genomes | None) -> Found:
    """Read a .bed with the header `chromosome start end split [label…]`, or the one of a folder.

    A cell of `label` may hold the numbers of all labels that are 1, as 0,17 or nothing, which
    BEND's own files do. Labels that it lacks are in FILE.hdf5 beside it (or .h5), dataset `labels`
    (N,) or (N, C).
    """
    if path.is_dir():
        bed, *others = bed_files(path)
        if others:
            raise UserError(f"{path} has {bed.name} and {others[0].name}; give one of them")
        path = bed
    table = read_table(path)
    words = split_words(table)
    rows = _placed(table, _opened(path, genome))
    if not rows.targets:
        rows = replace(rows, targets=_hdf5_labels(path, rows.codes))
    elif several := _numbers_of_labels(rows):
        rows = replace(rows, targets=several)
    return Found({split: rows.take(where) for split, where in words.items()})


def _opened_for(
    folder: Path, classes: Iterable[str], genome: Genomes | None
) -> dict[str, OpenGenome]:
    """The genome of each class; UserError where a class has none, or should have its own."""
    urls = _urls(folder)
    each = " ".join(f"--genome {name}=FASTA" for name in classes)
    named = f"metadata.yaml names {', '.join(urls)}"
    if isinstance(genome, Mapping):
        if missing := [name for name in classes if name not in genome]:
            raise UserError(
                f"{folder}: no genome is given of the class {missing[0]!r}; expected {each}"
            )
        return {name: open_genome(genome[name]) for name in classes}
    # Contigs of two species may have one name, as X has: they would be read from the wrong one.
    if len(urls) > 1:
        raise UserError(
            f"{folder} holds places of {len(urls)} genomes and no sequences; expected {each} "
            f"({named})"
        )
    return dict.fromkeys(classes, _opened(folder, genome, f" ({named})" if urls else ""))


def _opened(path: Path, genome: Genomes | None, hint: str = "") -> OpenGenome:
    """One genome for all; hint: of which, to read after a message."""
    if isinstance(genome, Mapping):
        raise UserError(
            f"{path}: genomes of the classes {', '.join(genome)}; its places are of one genome, "
            "expected one FASTA or 2bit file"
        )
    if genome is None:
        raise UserError(
            f"{path} holds places of a genome and no sequences; expected genome=, its FASTA or "
            f"2bit file{hint}"
        )
    return open_genome(genome)


def _urls(folder: Path) -> list[str]:
    """Of the genomes that metadata.yaml names, each once."""
    metadata = folder / "metadata.yaml"
    text = metadata.read_text(encoding="utf-8") if metadata.is_file() else ""
    return list(dict.fromkeys(_URL.findall(text)))


def _placed(table: Table, genome: OpenGenome) -> Rows:
    """Rows of a table of places; names are CONTIG:START-END, with the strand where there is one."""
    contigs = table.need(*CONTIG_COLUMNS)
    starts, ends = table.need("start"), table.need("end")
    strands = table.find("strand") or [""] * len(table)
    aliases = match_styles(dict.fromkeys(contigs), genome.contigs)
    codes = []
    rows = zip(table.places, contigs, starts, ends, strands, strict=True)
    for place, contig, start, end, strand in rows:
        if strand not in STRANDS:
            raise UserError(f"{place}: strand {strand!r}, expected + or -, . or nothing")
        bases = _bases(place, genome, aliases.get(contig, contig), start, end)
        codes.append(reverse_complement(bases) if strand == "-" else bases)
    found = table_rows(table, codes)
    if table.find("name"):
        return found
    parts = zip(contigs, starts, ends, strands, strict=True)
    names = [f"{contig}:{start}-{end}{strand}" for contig, start, end, strand in parts]
    return replace(found, names=names)


def _bases(place: str, genome: OpenGenome, contig: str, start: str, end: str) -> np.ndarray:
    if contig not in genome.contigs:
        raise UserError(
            f"{place}: {genome.path} has no contig {contig!r}{suggest(contig, genome.contigs)}"
        )
    first, last = whole_number(start), whole_number(end)
    length = len(genome.contigs[contig])
    if first is None or last is None or not 0 <= first < last <= length:
        raise UserError(
            f"{place}: {contig}:{start}-{end}, expected 0 ≤ start < end ≤ {length}, the contig's "
            f"length in {genome.path}"
        )
    return genome.contigs[contig][first:last]


def _numbers_of_labels(rows: Rows) -> dict[str, Column]:
    """Columns of 0 and 1 where cells hold numbers of labels; {} where they hold anything else.

    Cells of as many parts each, all of them 0 and 1, are labels themselves.
    """
    cells = [[part for part in word.split(",") if part] for word in rows.targets.get("label", [])]
    if len({len(cell) for cell in cells}) < 2 and all(p in "01" for cell in cells for p in cell):
        return {}
    several = any(len(cell) > 1 for cell in cells)
    if not several or not all(part.strip().isdecimal() for cell in cells for part in cell):
        return {}
    found = np.zeros((len(cells), max(int(p) for cell in cells for p in cell) + 1), np.int64)
    for row, cell in enumerate(cells):
        found[row, [int(part) for part in cell]] = 1
    return {f"label_{number}": column for number, column in enumerate(found.T)}


def _hdf5_labels(bed: Path, codes: list[np.ndarray]) -> dict[str, Column]:
    num_rows = len(codes)
    base = bed.with_name(stem_of(bed))
    path = next((p for end in (".hdf5", ".h5") if (p := Path(f"{base}{end}")).is_file()), None)
    if path is None:
        raise UserError(f"{bed}: no column 'label', and no {base.name}.hdf5 beside it")
    with open_hdf5(path) as file:
        dataset = file.get("labels")
        if not hasattr(dataset, "dtype"):
            raise UserError(f"{path}: no dataset 'labels'; it has {', '.join(file) or 'none'}")
        _refuse_labels_of_positions(path, dataset, codes)
        labels = dataset[()]
    if labels.dtype.kind not in "biuf" or labels.ndim not in (1, 2) or len(labels) != num_rows:
        raise UserError(
            f"{path}: labels are {labels.dtype} {labels.shape}, expected numbers ({num_rows},) or "
            f"({num_rows}, C) for the {num_rows} rows of {bed.name}"
        )
    if labels.ndim == 1:
        whole = labels.astype(np.int64) if (labels == labels // 1).all() else labels
        return {"label": list(map(str, whole.tolist()))}
    return {f"label_{number}": column for number, column in enumerate(labels.T)}


def _refuse_labels_of_positions(path: Path, dataset: Any, codes: list[np.ndarray]) -> None:
    """Raise UserError for labels of bases or bins, as of BEND's genes and enhancers."""
    longest = max(map(len, codes))
    number = dataset.shape[1] if dataset.ndim == 2 else 0
    binned = number >= FEWEST_BINS and longest == number * BINNED_BP
    if binned or number == longest:
        each = f"{BINNED_BP} bp" if binned else "base"
        raise UserError(
            f"{path}: labels are {dataset.dtype} {dataset.shape}, one for each {each} of a "
            f"sequence of {longest:,} bp; expected (N,) or (N, C), labels of whole sequences: "
            "those of positions are not learnt here"
        )
