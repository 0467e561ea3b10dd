"""Write a species without tracks: a genome alone -> one verified folder.

Two steps: prepare (read the genome, find out which split may use what, write the sequence) and
finish (manifest, rename). A killed run goes on with the step it was at.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pydantic import TypeAdapter

from spacescale.dataset.folder import refuse_existing
from spacescale.dataset.schema import (
    EXCLUDED,
    Contig,
    GenomeManifest,
    Report,
    SequenceInfo,
    Sources,
    Split,
)
from spacescale.dataset.sequence_splits import sequence_hash, sequence_splits
from spacescale.errors import UserError
from spacescale.files import failed_writes_explained
from spacescale.genome import dna
from spacescale.genome.aliases import aliases_of_names, shorten
from spacescale.genome.intervals import Interval
from spacescale.genome.sequence_files import Genome, read_genome
from spacescale.prepare.estimate import store_bases
from spacescale.prepare.jobs import Notify
from spacescale.prepare.options import GenomeOptions
from spacescale.prepare.sequence import place_contigs, write_sequence
from spacescale.prepare.shards import publish, remove_leftovers
from spacescale.prepare.track_reader import source_of
from spacescale.prepare.work_folder import WorkFolder, locked_exclusively, request_of
from spacescale.prepare.writer import created_with, write_manifest
from spacescale.splits.plan import Settings, SplitMethod, SplitPlan, names_in_splits, plan_splits

# In the place of a target's length: a contig that is held out unasked, or a block, has this much.
_LEAST_BP = 100


@dataclass(frozen=True)
class GenomePlan:
    """What a species without tracks will hold; fields as in its manifest.

    sequence: which split may use which bases, as `sequence_splits` gives it. stored: what is known
    of the bases beside, once they are written.
    """

    contigs: list[Contig]
    sequence: list[Interval]
    split_method: SplitMethod
    split_settings: Settings
    aliases: dict[str, str]
    report: Report
    stored: SequenceInfo | None = None


_PLAN = TypeAdapter(GenomePlan)


@dataclass(frozen=True)
class GenomeEstimate:
    """What a species without tracks will hold and take; bytes and seconds are extrapolated."""

    plan: GenomePlan
    genome_bytes: int
    seconds: float


def make_genome(options: GenomeOptions, notify: Notify = lambda _: None) -> Path:
    """Write the species `options.out / options.species` and return that path.

    notify: called with a line when a killed run is continued.
    The folder appears only when complete. Bad input leaves nothing behind. An interruption leaves
    `.NAME.partial`, from which the same call continues. Raises UserError for bad input, naming
    file, value and cure, and when another run is writing the same dataset.
    """
    refuse_existing(options.target, options.overwrite)
    work, request = WorkFolder.of(options.target), _request(options)
    with locked_exclusively(work, request, options.overwrite):
        if work.plan.is_file():
            notify("continuing: the genome is written")
        else:
            _prepare(work, options)
        _finish(work, options)
        publish(work, _request(options), options.target)
    return options.target


def _request(options: GenomeOptions) -> dict[str, str]:
    """Return what decides the bytes of the dataset, see `request_of`."""
    settings = {
        field.name: getattr(given, field.name)
        for given in (options, options.splits)
        for field in fields(given)
    }
    return request_of(settings | {"kind": "genome alone"}, [])


def plan_genome(options: GenomeOptions, genome: Genome) -> GenomePlan:
    """Find out which split may use which bases. Raises UserError where one has no known base."""
    lengths = genome.lengths
    names = names_in_splits(options.splits)
    aliases = aliases_of_names(options.aliases, names, lengths)
    splits = _splits(options, genome, aliases)
    contigs = place_contigs(lengths, lengths)
    sequence = sequence_splits(contigs, splits.intervals, options.splits.margin)
    usable = [stretch for stretch in sequence if stretch.split != EXCLUDED]
    _refuse_empty_splits(options, genome, splits.intervals, usable)
    taken = {stretch.chrom for stretch in usable}
    report = Report(
        unassigned=[name for name in lengths if name not in taken],
        ambiguous_bases=genome.num_ambiguous,
        warnings=splits.notes,
    )
    return GenomePlan(contigs, sequence, splits.method, splits.settings, aliases, report)


def _splits(options: GenomeOptions, genome: Genome, aliases: dict[str, str]) -> SplitPlan:
    names = list(genome.lengths)
    if options.all_train:
        whole = [Interval(name, 0, length, "train") for name, length in genome.lengths.items()]
        return SplitPlan(whole, "all_train", {})
    offer_auto = options.aliases is None
    return plan_splits(options.splits, _LEAST_BP, genome, aliases, names, offer_auto)


def _refuse_empty_splits(
    options: GenomeOptions, genome: Genome, asked: Sequence[Interval], usable: Sequence[Interval]
) -> None:
    known: Counter[str] = Counter()
    for stretch in usable:
        codes = genome.contigs[stretch.chrom][stretch.start : stretch.end]
        known[stretch.split] += int(np.count_nonzero(codes != dna.N))
    if usable and not any(known.values()):
        raise UserError(f"{options.fasta}: every base is N")
    for split in dict.fromkeys(interval.split for interval in asked):
        if split not in known:
            raise UserError(
                f"split {split} has no base: all lie within the margin of {options.splits.margin} "
                "bp of another split; choose a smaller --margin or longer stretches"
            )
        if not known[split]:
            chroms = dict.fromkeys(i.chrom for i in asked if i.split == split)
            raise UserError(
                f"split {split} has no known base: all that is its own of {shorten(list(chroms))} "
                "is N"
            )


def _prepare(work: WorkFolder, options: GenomeOptions) -> None:
    genome = read_genome(options.fasta, work.codes, work.case)
    plan = plan_genome(options, genome)
    work.begin()
    codes = genome.contigs.values()
    stored = write_sequence(work.dataset, plan.contigs, codes, plan.sequence, genome)
    work.codes.unlink()
    work.case.unlink()
    warnings = plan.report.warnings + stored.warnings
    report = plan.report.model_copy(update={"warnings": warnings})
    work.save_plan(_PLAN.dump_json(replace(plan, report=report, stored=stored.info)), {})


def _finish(work: WorkFolder, options: GenomeOptions) -> None:
    plan = _PLAN.validate_json(work.load_plan()[0])
    split_bed = options.splits.bed
    remove_leftovers(work.dataset)
    manifest = GenomeManifest(
        species=options.species,
        split=Split(
            method=plan.split_method,
            settings=plan.split_settings,
            hash=sequence_hash(plan.sequence),
        ),
        contigs=plan.contigs,
        aliases=plan.aliases,
        sequence=plan.stored,
        sources=Sources(
            fasta=source_of(options.fasta),
            split_bed=source_of(split_bed) if split_bed else None,
        ),
        report=plan.report,
        files={},
        created_with=created_with(),
    )
    write_manifest(work.dataset, manifest)


def estimate_genome(options: GenomeOptions) -> GenomeEstimate:
    """Plan a species without tracks, and compress a sample of it in the temporary folder.

    Raises UserError as `make_genome` does for files that do not fit, and where that folder is full.
    """
    start = time.perf_counter()
    with (
        TemporaryDirectory(prefix="spacescale-plan-") as name,
        failed_writes_explained(Path(name).parent),
    ):
        folder = Path(name)
        genome = read_genome(options.fasta, folder / "codes", folder / "case")
        plan = plan_genome(options, genome)
        planning_s = time.perf_counter() - start
        share, base_s = store_bases(folder, genome, plan.contigs)
    bases = sum(contig.length for contig in plan.contigs)
    return GenomeEstimate(plan, round(bases * share), planning_s + bases * base_s)
