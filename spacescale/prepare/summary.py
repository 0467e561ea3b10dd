"""What a command that made a dataset prints at its end."""

import shlex
from collections.abc import Sequence

from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.schema import Report
from spacescale.dataset.sequence_splits import bases_by_split
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.files import describe_size
from spacescale.genome.aliases import shorten
from spacescale.prepare.estimate import Estimate
from spacescale.prepare.genome_dataset import GenomeEstimate
from spacescale.prepare.options import DatasetOptions


def print_summary(data: SpeciesData, seconds: float, advice: Sequence[str] = ()) -> None:
    """Print what was made, what was left out, what to decide, and what to do next."""
    size = sum(entry.bytes for entry in data.manifest.files.values())
    _print_lines(
        {
            "windows": describe_windows(data.manifest.num_windows),
            "tracks": f"{len(data.tracks):,}",
            **_sequence_lines(data),
            "size": f"{size / 2**20:,.1f} MiB",
            "time": f"{seconds:.1f} s",
        }
    )
    print_report(data.manifest.report, data.manifest.aliases)
    _print_lacking_splits(data.manifest.num_windows)
    print("\n".join(advice), end="\n" if advice else "")
    train = "deepspeed spacescale/pretrain.py --deepspeed ds_configs/zero2_moe.json"
    print(f"next: {train} --data {shlex.quote(str(data.path))}")


def print_genome_summary(data: SpeciesGenome, seconds: float) -> None:
    """Print what was made of a genome alone, and what was left out."""
    size = sum(entry.bytes for entry in data.manifest.files.values())
    _print_lines(
        {
            **_sequence_lines(data),
            "size": f"{size / 2**20:,.1f} MiB in {len(data.manifest.files) + 1} files",
            "time": f"{seconds:.1f} s",
        }
    )
    _print_genome_report(data.manifest.report, data.manifest.aliases, data.bases_of_splits())


def print_genome_estimate(found: GenomeEstimate) -> None:
    """Print what a genome alone will hold and take, and how that was found out."""
    bases = bases_by_split(found.plan.sequence)
    _print_lines(
        {
            "sequence": describe_sequence(bases, len(found.plan.contigs)),
            "genome": f"about {describe_size(found.genome_bytes)} stored",
            "time": f"about {_duration(found.seconds)}",
        }
    )
    _print_genome_report(found.plan.report, found.plan.aliases, bases)
    print("sizes and time are estimates, from a sample of the bases; nothing was written")


def _print_genome_report(report: Report, aliases: dict[str, str], bases: dict[str, int]) -> None:
    print_report(report, aliases)
    if "train" not in bases:
        print("  warning: no sequence is called train: nothing to train on")


def _sequence_lines(data: SpeciesGenome) -> dict[str, str]:
    lines = {"sequence": describe_sequence(data.bases_of_splits(), len(data.manifest.contigs))}
    if data.manifest.sequence and data.manifest.sequence.lower_case:
        stored = sum(contig.length for contig in data.manifest.contigs)
        share = 100 * data.manifest.sequence.lower_case / stored
        lines["repeats"] = f"{share:.1f} % of the bases, in lower case"
    return lines


def describe_sequence(bases: dict[str, int], num_contigs: int) -> str:
    """Say how many bases each split may use."""
    parts = [f"{split} {_in_bp(count)}" for split, count in bases.items()]
    return f"{', '.join(parts)}; {num_contigs:,} contigs"


def _in_bp(count: int) -> str:
    if count < 1_000_000:
        return f"{count / 1000:.1f} kb"
    return f"{count / 1e6:,.2f} Mb"


def print_estimate(found: Estimate, options: DatasetOptions) -> None:
    """Print what a dataset will hold and take, and how that was found out."""
    stored = f"about {describe_size(found.stored_bytes)} stored ({options.codec})"
    _print_lines(
        {
            "windows": describe_windows(found.plan.num_windows()),
            "tracks": f"{found.num_tracks:,}",
            "targets": f"{describe_size(found.raw_bytes)} as float16, {stored}",
            "sequence": describe_sequence(
                bases_by_split(found.plan.sequence), len(found.plan.contigs)
            ),
            "genome": f"about {describe_size(found.genome_bytes)} stored",
            "shards": f"{found.num_shards:,} of {options.windows_per_shard} windows",
            "scratch": f"{describe_size(found.scratch_bytes)} until it is done",
            "time": f"about {_duration(found.seconds)} with {options.workers} worker(s)",
        }
    )
    print_report(found.plan.report, found.plan.aliases)
    _print_lacking_splits(found.plan.num_windows())
    _print_sampled_advice(found)
    print(
        f"sizes and time are estimates, from {found.sample_tracks} tracks in "
        f"{found.sample_windows} windows; nothing was written"
    )


def _print_sampled_advice(found: Estimate) -> None:
    if not found.advice:
        return
    total = len(found.plan.windows)
    if found.looked_windows < total or found.looked_tracks < found.num_tracks:
        print(
            f"  looked at    {found.looked_tracks:,} of {found.num_tracks:,} tracks in "
            f"{found.looked_windows:,} of {total:,} windows: the highest bins may be elsewhere"
        )
    print("\n".join(found.advice))


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def describe_windows(num_windows: dict[str, int]) -> str:
    """Say how many windows each split has."""
    return ", ".join(f"{split} {count:,}" for split, count in num_windows.items())


def print_report(report: Report, aliases: dict[str, str]) -> None:
    """Print what was left out or renamed, and the warnings."""
    lines = {}
    if aliases:
        lines["renamed"] = shorten([f"{a} = {b}" for a, b in aliases.items()])
    reasons = {
        "target more than half N": report.dropped_unknown_bases,
        "in an assembly gap": report.dropped_gaps,
        "more than half unmappable": report.dropped_unmappable,
        "not measured by any track": report.dropped_unmeasured,
        "near another split": report.dropped_near_other_split,
    }
    if dropped := [f"{count} windows, {why}" for why, count in reasons.items() if count]:
        lines["dropped"] = "; ".join(dropped)
    if report.ambiguous_bases:
        lines["read as N"] = f"{report.ambiguous_bases:,} letters: IUPAC ambiguity codes or X"
    if report.contigs_without_tracks:
        lines["no windows"] = _describe_missing_contigs(report.contigs_without_tracks)
    if report.extra_contigs:
        lines["not in FASTA"] = shorten(list(report.extra_contigs))
    if report.too_short:
        lines["too short"] = shorten(report.too_short)
    if report.unassigned:
        lines["in no split"] = shorten(report.unassigned)
    _print_lines(lines)
    for overlap in report.split_overlaps:
        if overlap.seeing:
            print(f"  context: {overlap} (--margin keeps splits apart)")
    for warning in report.warnings:
        print(f"  warning: {warning}")


def _print_lacking_splits(num_windows: dict[str, int]) -> None:
    uses = {"train": "train on", "valid": "choose the best checkpoint by", "test": "evaluate on"}
    for split, use in uses.items():
        if split not in num_windows:
            print(f"  warning: no window is called {split}: nothing to {use}")


def _print_lines(lines: dict[str, str]) -> None:
    for name, text in lines.items():
        print(f"  {name:<13}{text}")


def _describe_missing_contigs(contigs: dict[str, list[str]]) -> str:
    tracks = {name: None for names in contigs.values() for name in names}
    return f"{shorten(list(contigs))}: lacking in {shorten(list(tracks))}"
