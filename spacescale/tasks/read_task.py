"""Reading a task: the layout of its folder, what its labels mean, its validation split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from spacescale.errors import UserError
from spacescale.tasks.archive_files import HDF5, read_archive
from spacescale.tasks.class_files import class_folders, read_class_folders
from spacescale.tasks.genome_places import (
    Genomes,
    bed_files,
    coordinate_files,
    read_bend,
    read_coordinates,
)
from spacescale.tasks.hdf5_files import open_hdf5
from spacescale.tasks.rows import Found
from spacescale.tasks.split_files import (
    TABLES,
    dream_files,
    read_dream,
    read_split_fastas,
    read_split_tables,
    split_fastas,
    split_tables,
)
from spacescale.tasks.table_rows import read_one_table
from spacescale.tasks.tables import column_names, form_of
from spacescale.tasks.target_words import read_targets, target_columns
from spacescale.tasks.task import SPLITS, Examples, Kind, Task
from spacescale.tasks.validation_cut import cut_validation


@dataclass(frozen=True)
class _Layout:
    """How a folder may hold a task.

    looks_like: to read after "expected". files: those of a folder that are laid out so. read: the
    folder, and the genome where `needs_genome`.
    """

    looks_like: str
    files: Callable[[Path], list[Path]]
    read: Callable[[Path, Genomes | None], Found]
    needs_genome: bool = False


_LAYOUTS = {
    "tables": _Layout(
        "{train,dev,test}.csv (.tsv, .parquet)", split_tables, lambda p, _: read_split_tables(p)
    ),
    "fasta": _Layout(
        "{train,test}.fna (.fa, .fasta)", split_fastas, lambda p, _: read_split_fastas(p)
    ),
    "dream": _Layout("*_{train,valid,test}.txt", dream_files, lambda p, _: read_dream(p)),
    "genomic_benchmarks": _Layout(
        "{train,test}/CLASS.csv.gz", coordinate_files, read_coordinates, needs_genome=True
    ),
    "class_folders": _Layout(
        "{train,test}/CLASS/*.txt", class_folders, lambda p, _: read_class_folders(p)
    ),
    "bend": _Layout("one .bed with a column split", bed_files, read_bend, needs_genome=True),
}
_ONE_TABLE = _Layout("a table with a column split", lambda p: [p], lambda p, _: read_one_table(p))
_ARCHIVE = _Layout("an .h5 with x_train", lambda p: [p], lambda p, _: read_archive(p))


def read_task(
    path: Path | str,
    *,
    genome: Genomes | None = None,
    kind: Kind | None = None,
    valid_share: float = 0.1,
    seed: int = 0,
    name: str | None = None,
) -> Task:
    """Read a task from the folder or file that holds it; its layout is told from what is there.

    Layouts (`Task.layout`), files may be .gz:

    - tables: {train, valid or dev or val, test}.csv, .tsv or .parquet, as GUE has them, or shards
      train-00000-of-00002.parquet of such, also in the folder's data/. Columns: sequence or seq;
      `label` (words, or whole numbers 0…C−1: classes; 0,1,1 or a list in a cell: labels), `label_*`
      or `label:*` (0 and 1: labels), or value, target, mean_value, `value_*` (values; several in a
      cell, too); name and group where they are known. one_table: one such file with a column
      `split`.
    - fasta: the same in FASTA, headers `>name|label`, as Nucleotide Transformer has them.
    - dream: *_train.txt, *_valid.txt, *_test.txt with seq_id, seq, mean_value.
    - genomic_benchmarks: {train,test}/CLASS.csv.gz with region, start, end, strand.
    - class_folders: {train,test}/CLASS/*.txt, one sequence in each.
    - bend: a .bed with chromosome, start, end, split and label columns, or labels in FILE.hdf5.
    - archive: an .h5 or .hdf5 of Tang and Koo (2024), see `archive_files`.

    Where sequences lie (`Examples.loci`) is kept of layouts with places, of tables with columns of
    contig, start and end beside the sequence, of headers CONTIG:START-END, and see `archive_files`.

    genome: FASTA or 2bit file, for layouts with places; of genomic_benchmarks also {class: file}.
    kind: what the targets are, where the column's name says something else. valid_share, seed: what
    is cut off train where no file validates, see `cut_validation`. name: else that of the folder or
    file.

    Raises UserError, one line with file, line and value, for what does not fit.
    """
    if kind not in (None, *get_args(Kind)):
        raise UserError(f"kind {kind!r}: expected {', '.join(get_args(Kind))}")
    path = Path(path)
    layout_name, layout = _layout_of(path)
    found = layout.read(path, genome)
    meaning = read_targets(found.splits, kind)
    notes = [*found.notes, *meaning.notes]
    if genome is not None and not layout.needs_genome:
        paths = genome.values() if isinstance(genome, Mapping) else [genome]
        names = ", ".join(path.name for path in paths)
        notes.append(f"the genome {names} was not needed to read sequences: the files hold them")
    splits = {
        split: Examples(
            rows.codes,
            meaning.targets[split],
            rows.names,
            tuple(rows.groups),
            rows.offsets,
            tuple(rows.loci),
            tuple(rows.places),
        )
        for split, rows in found.splits.items()
    }
    if "valid" not in splits:
        whole = len(splits["train"])
        try:
            splits["train"], splits["valid"] = cut_validation(
                splits["train"], meaning.kind, valid_share, seed
            )
        except UserError as error:
            raise UserError(f"{path}: no file validates, and {error}") from None
        of_each = ", of each class" if meaning.kind == "classes" else ""
        notes.append(
            f"no file validates: {len(splits['valid'])} of {whole} training sequences were cut off "
            f"(share {valid_share}{of_each}, seed {seed}; equal sequences, reverse complements "
            "and groups together)"
        )
    ordered = {split: splits[split] for split in SPLITS}
    return Task(
        name or task_name(path), path, layout_name, meaning.kind, meaning.outputs, ordered, notes,
        found.assay,
    )  # fmt: skip


def is_task(path: Path) -> bool:
    """Whether a folder is laid out as one of the layouts, or as several."""
    return path.is_dir() and bool(_files_of(path))


def holds_task(file: Path) -> bool:
    """Whether a file is a whole task: places or a table with a column `split`, or an archive.

    Raises UserError for a table or archive that cannot be read.
    """
    form = form_of(file)
    if form in HDF5:
        with open_hdf5(file) as datasets:
            return any(name.endswith("_train") for name in datasets)
    return form == ".bed" or (form in TABLES and "split" in map(str.lower, column_names(file)))


def tasks_below(folder: Path) -> list[Path]:
    """All folders in and below one that hold a task, and files that are one, in their order.

    Files beside those of a task are none of their own. Raises UserError where there is none.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    found: dict[Path, None] = {}
    taken: set[Path] = set()
    for path in sorted([folder, *folder.rglob("*")]):
        if path.is_dir():
            files = _files_of(path)
            if not taken.issuperset(files):  # a folder data/ may be that of the folder above
                found[path] = None
            taken.update(files)
        elif path.parent not in found and _is_one_of_suite(path):
            found[path] = None
    if not found:
        expected = ", ".join(one.looks_like for one in (*_LAYOUTS.values(), _ONE_TABLE, _ARCHIVE))
        raise UserError(f"{folder} holds no task, nor does a folder below: expected {expected}")
    return list(found)


def _files_of(folder: Path) -> list[Path]:
    return [path for layout in _LAYOUTS.values() for path in layout.files(folder)]


def _is_one_of_suite(file: Path) -> bool:
    """Whether a file is a task, and no other table with a column `split`, as one of results.

    What cannot be read counts: its fault is told when it is, and stops no other task.
    """
    form = form_of(file)
    if file.name.startswith(".") or form not in (*TABLES, *HDF5):
        return False
    try:
        return holds_task(file) and (form in HDF5 or bool(target_columns(column_names(file))))
    except UserError:
        return True


def _layout_of(path: Path) -> tuple[str, _Layout]:
    if path.is_file():
        form = form_of(path)
        if form == ".bed":
            return "bend", _LAYOUTS["bend"]
        if form in TABLES:
            return "one_table", _ONE_TABLE
        if form in HDF5:
            return "archive", _ARCHIVE
        raise UserError(
            f"{path}: expected a .csv, .tsv, .parquet or .bed with a column split, an .h5 with "
            "x_train, or a folder with a file for each split"
        )
    if not path.is_dir():
        raise UserError(f"no such folder or file of a task: {path}")
    fitting = {name: files for name, one in _LAYOUTS.items() if (files := one.files(path))}
    if len(fitting) > 1:
        seen = [str(files[0].relative_to(path)) for files in fitting.values()]
        raise UserError(
            f"{path} is laid out in two ways ({' and '.join(fitting)}): {' and '.join(seen)}; "
            "expected one of them"
        )
    if not fitting:
        expected = ", ".join(one.looks_like for one in _LAYOUTS.values())
        folders = sorted(one.name for one in path.iterdir() if one.is_dir())
        inside = f"; it has folders, of which one may be meant: {', '.join(folders[:10])}"
        raise UserError(f"{path} holds no task: expected {expected}{inside if folders else ''}")
    return next((name, _LAYOUTS[name]) for name in fitting)


def task_name(path: Path) -> str:
    """What a task is called: as its folder, and the one above where that is a bare number: tf_0."""
    path = path.resolve()
    stem = path.name if path.is_dir() else path.name.partition(".")[0]
    return f"{path.parent.name}_{stem}" if stem.isdecimal() else stem
