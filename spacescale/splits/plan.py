"""Which stretches of the genome belong to which split: the user's choice, or two contigs."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from spacescale.dataset.schema import EXCLUDED
from spacescale.errors import UserError
from spacescale.genome import dna
from spacescale.genome.aliases import explain_unknown
from spacescale.genome.intervals import Interval, tile
from spacescale.genome.sequence_files import Genome
from spacescale.splits.beds import bed_contigs, name_folds, read_split_bed, read_window_bed
from spacescale.splits.dealing import random_blocks, shares_of
from spacescale.splits.options import SplitOptions

MAX_UNKNOWN_SHARE = 0.5

SplitMethod = Literal["chroms", "bed", "random_blocks", "held_out", "all_train"]
Settings = dict[str, str | int | float | list[str]]


@dataclass(frozen=True)
class SplitPlan:
    """Stretches to tile with windows, or the targets themselves where a BED lists windows.

    They also say which split may use which sequence. Where the user did not say what trains, it is
    the rest, contigs that no track has among them. method, settings: as in the manifest. notes:
    what the user should know.
    """

    intervals: list[Interval]
    method: SplitMethod
    settings: Settings
    notes: list[str] = field(default_factory=list)


def plan_splits(
    options: SplitOptions,
    span_bp: int,
    genome: Genome,
    aliases: Mapping[str, str],
    common: Sequence[str],
    offer_auto: bool = False,
) -> SplitPlan:
    """Return the stretches of each split.

    span_bp: length of a target. aliases: {name in the options or BED: genome name}. common: contigs
    with coverage. offer_auto: propose `--aliases auto` for unknown names that it would match.
    Raises UserError for contigs that the genome lacks, for bases in two splits, for shares that
    cannot be met, and where nothing would be there to train on.
    """
    lengths = genome.lengths
    if options.bed:
        chosen = _from_bed(options, options.bed, span_bp, lengths, aliases, offer_auto)
    elif options.random_blocks:
        chosen = _from_random_blocks(options, options.random_blocks, span_bp, genome, common)
    elif any(options.chroms_of_split.values()):
        intervals = _from_chroms(options, lengths, aliases, offer_auto)
        chosen = SplitPlan(intervals, "chroms", _chrom_settings(options))
    else:
        held_out, note = _hold_out_two_contigs(options, span_bp, genome, common)
        intervals = _from_chroms(held_out, lengths, aliases, offer_auto)
        chosen = SplitPlan(intervals, "held_out", _chrom_settings(held_out), [note])
    margin: Settings = {"margin_bp": options.margin} if options.margin else {}
    return replace(chosen, settings=chosen.settings | margin)


def names_in_splits(options: SplitOptions) -> list[str]:
    """Return the contig names that the user gave, as they stand in the BED or the options."""
    if bed := options.bed:
        return bed_contigs(bed)
    return [name for names in options.chroms_of_split.values() for name in names]


def unknown_share(genome: Genome, window: Interval) -> float:
    """Return the share of N in an interval."""
    codes = genome.contigs[window.chrom][window.start : window.end]
    return np.count_nonzero(codes == dna.N) / codes.size


def _from_bed(
    options: SplitOptions,
    bed: Path,
    span_bp: int,
    lengths: Mapping[str, int],
    aliases: Mapping[str, str],
    offer_auto: bool,
) -> SplitPlan:
    if options.windows:
        intervals = read_window_bed(bed, span_bp, lengths, aliases, offer_auto)
    else:
        intervals = read_split_bed(bed, lengths, aliases, offer_auto)
    settings: Settings = {"intervals": "windows" if options.windows else "contigs"}
    intervals = [interval for interval in intervals if interval.split != EXCLUDED]
    intervals = name_folds(bed, intervals, options.valid_folds, options.test_folds)
    if options.valid_folds or options.test_folds:
        settings |= {
            "valid_folds": sorted(options.valid_folds),
            "test_folds": sorted(options.test_folds),
        }
    return SplitPlan(intervals, "bed", settings)


def _from_random_blocks(
    options: SplitOptions, block_bp: int, span_bp: int, genome: Genome, common: Sequence[str]
) -> SplitPlan:
    if block_bp < span_bp:
        raise UserError(
            f"random_blocks {block_bp} is shorter than a target, {span_bp} bp: no block would "
            "hold a window"
        )
    if not common:
        raise UserError("random_blocks: no contig has coverage in every track")
    shares = shares_of(options.valid_share, options.test_share)
    try:
        intervals = random_blocks(genome, common, block_bp, shares, options.split_seed)
    except UserError as error:
        smaller = _blocks_that_work(options, block_bp, span_bp, genome, common)
        cure = f"; --random-blocks {smaller} works" if smaller else ""
        raise UserError(f"{error}{cure}") from None
    # Of contigs without coverage there is nothing to hold out but their sequence.
    covered = set(common)
    rest = [name for name in genome.lengths if name not in covered]
    intervals += [Interval(name, 0, genome.lengths[name], "train") for name in rest]
    settings: Settings = {
        "block_bp": block_bp,
        "seed": options.split_seed,
        "valid_share": options.valid_share,
        "test_share": options.test_share,
    }
    return SplitPlan(intervals, "random_blocks", settings)


def _blocks_that_work(
    options: SplitOptions, block_bp: int, span_bp: int, genome: Genome, common: Sequence[str]
) -> int | None:
    """Return the longest blocks that meet the shares, of 1/2, 1/4 … of the length.

    They are whole targets; None if even blocks of one do not meet them.
    """
    shares = shares_of(options.valid_share, options.test_share)
    spans = min(block_bp, 2 * max(genome.lengths[name] for name in common)) // span_bp
    while spans := spans // 2:
        with suppress(UserError):
            random_blocks(genome, common, spans * span_bp, shares, options.split_seed)
            return spans * span_bp
    return None


def _chrom_settings(options: SplitOptions) -> Settings:
    return {split: sorted(names) for split, names in options.chroms_of_split.items() if names}


def _from_chroms(
    options: SplitOptions,
    lengths: Mapping[str, int],
    aliases: Mapping[str, str],
    offer_auto: bool,
) -> list[Interval]:
    _refuse_unknown_chroms(options, lengths, aliases, offer_auto)
    split_of: dict[str, str] = {}
    for split, names in options.chroms_of_split.items():
        for given in names:
            name = aliases.get(given, given)
            if split_of.setdefault(name, split) != split:
                raise UserError(f"contig {given} is in two splits, {split_of[name]} and {split}")
    if not options.train_chroms:
        split_of = {name: split_of.get(name, "train") for name in lengths}
    return [Interval(name, 0, lengths[name], split) for name, split in split_of.items()]


def _refuse_unknown_chroms(
    options: SplitOptions,
    lengths: Mapping[str, int],
    aliases: Mapping[str, str],
    offer_auto: bool,
) -> None:
    unknown: dict[str, str] = {}
    for split, names in options.chroms_of_split.items():
        for name in names:
            if aliases.get(name, name) not in lengths:
                unknown.setdefault(name, f"--{split}-chroms")
    if unknown:
        where = ", ".join(dict.fromkeys(unknown.values()))
        raise UserError(f"{where}: {explain_unknown(unknown, lengths, offer_auto)}")


def _hold_out_two_contigs(
    options: SplitOptions, span_bp: int, genome: Genome, common: Sequence[str]
) -> tuple[SplitOptions, str]:
    """Return options that hold out the two contigs nearest in length to 10 % of all, and a note.

    Only contigs that every track has and that hold a window count.
    """
    lengths = genome.lengths
    usable = [name for name in common if _has_window(genome, name, span_bp)]
    if len(usable) < 3:
        raise UserError(
            "no splits given; held-out contigs must be chosen by you: --contigs BED with the "
            "columns chrom, start, end, split"
        )
    total = sum(lengths[name] for name in usable)
    test, valid, *_ = sorted(usable, key=lambda name: (abs(10 * lengths[name] - total), name))
    shares = {name: f"{name} ({100 * lengths[name] / total:.0f} %)" for name in (test, valid)}
    note = (
        f"no split was given, so test is {shares[test]} and valid {shares[valid]}: the contigs "
        "nearest to 10 % of the total; choose with --valid-chroms and --test-chroms, or with "
        "--contigs BED"
    )
    return replace(options, valid_chroms=(valid,), test_chroms=(test,)), note


def _has_window(genome: Genome, name: str, span_bp: int) -> bool:
    contig = Interval(name, 0, genome.lengths[name], "")
    return any(
        unknown_share(genome, w) <= MAX_UNKNOWN_SHARE for w in tile(contig, span_bp, span_bp)
    )
