"""Species data sets at a glance: what they were made from, hold and cover."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spacescale.console import aligned
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.schema import GenomeManifest, Manifest
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.errors import UserError
from spacescale.evals import figures
from spacescale.genome import dna
from spacescale.genome.aliases import shorten
from spacescale.prepare.summary import describe_sequence
from spacescale.verify.content import Scan, scan_windows
from spacescale.verify.statistics import TargetStatistics

# Targets to read, in values: seconds for the text, under a minute or two for the figure.
_VALUES_FOR_TEXT, _VALUES_FOR_FIGURE = 2**27, 2**31
_MOST_WARNINGS = 5
_BASES_LOOKED_AT = 64_000_000


def describe_data(data: SpeciesData) -> str:
    """Describe a data set; coverage and bases come from up to a few hundred of its windows."""
    manifest = data.manifest
    scan = _sample(data, _VALUES_FOR_TEXT)
    lines = [
        f"data set     {data.path}",
        f"species      {data.name}",
        f"made from    {_sources(manifest)}",
        f"input        {data.seq_length:,} bp; targets {data.target_length} bins of "
        f"{data.bin_size} bp{_stride(manifest)}",
        f"transform    {manifest.transform.name} v{manifest.transform.version}; where nothing is "
        f"measured: {manifest.missing}",
        f"storage      {_storage(data)}",
        f"split        {_split(manifest)}",
        f"sequence     {_sequence(data)}",
        *_table("windows", _split_rows(data, scan)),
        *_table("tracks", _assay_rows(data)),
        *_zero_filled(data),
        f"bases        {_bases(scan)}",
        f"identity     {data.manifest_hash[:16]} (sha256 of manifest.json)",
        f"looked at    {_describe_sample(data, scan)}",
    ]
    return "\n".join(lines + _warnings(data, scan))


def describe_genome(data: SpeciesGenome) -> str:
    """Describe a species without tracks; its bases come from up to 64 Mb of it."""
    manifest = data.manifest
    sizes = [entry.bytes for name, entry in manifest.files.items() if name.startswith("genome/")]
    longest = max(manifest.contigs, key=lambda contig: contig.length)
    bases, looked_at = _bases_of_genome(data)
    lines = [
        f"data set     {data.path}",
        f"species      {data.name}, without tracks: for training on bases or tokens",
        f"made from    {_sources(manifest)}",
        f"contigs      {len(manifest.contigs):,}; the longest is {longest.name}, "
        f"{longest.length:,} bp",
        *_table("sequence", _sequence_rows(data)),
        f"repeats      {_repeats(data) or 'not told: no letter was in lower case'}",
        f"bases        {bases}",
        f"storage      {sum(sizes) / 2**20:.1f} MiB of genome; {_bytes(manifest) / 2**20:.1f} MiB "
        f"in {len(manifest.files) + 1} files",
        f"split        {_split(manifest)}",
        f"identity     {data.manifest_hash[:16]} (sha256 of manifest.json)",
        f"looked at    {looked_at}",
    ]
    return "\n".join([*lines, *_warning_lines(manifest.report.warnings)])


def _sequence_rows(data: SpeciesGenome) -> list[list[str]]:
    """Return a table: what each split may use."""
    rows = [["split", "stretches", "share", "Mbp"]]
    splits, counts = np.unique(data.sequence_table.split, return_counts=True)
    stretches = dict(zip(splits.tolist(), counts.tolist(), strict=True))
    bases = data.bases_of_splits()
    for split, count in bases.items():
        share = _percent(count / sum(bases.values()))
        rows.append([split, f"{stretches[split]:,}", share, f"{count / 1e6:.2f}"])
    return rows


def _sequence(data: SpeciesGenome) -> str:
    bases = describe_sequence(data.bases_of_splits(), len(data.manifest.contigs))
    repeats = _repeats(data)
    return f"{bases}; {repeats}" if repeats else bases


def _repeats(data: SpeciesGenome) -> str:
    told = data.manifest.sequence
    if told is None or told.lower_case is None:
        return ""
    stored = sum(contig.length for contig in data.manifest.contigs)
    return f"{_percent(told.lower_case / stored)} of the bases are repeats (lower case)"


def _bases_of_genome(data: SpeciesGenome) -> tuple[str, str]:
    """Return GC share and share of N, and in how many bases they were counted."""
    counts = np.zeros(dna.N + 1, dtype=np.int64)
    for contig in data.manifest.contigs:
        bp = min(contig.length, max(_BASES_LOOKED_AT - int(counts.sum()), 0))
        codes = data.bases(contig, contig.start, contig.start + bp)
        counts += np.bincount(codes, minlength=dna.N + 1)
    known, total = int(counts[: dna.N].sum()), int(counts.sum())
    gc = f"GC {counts[[dna.C, dna.G]].sum() / known:.3f}" if known else "no known base"
    stored = sum(contig.length for contig in data.manifest.contigs)
    looked_at = "all bases" if total == stored else f"the first {total / 1e6:.0f} Mb of them"
    return f"{gc}; N {_percent(1 - known / total)} of the bases", looked_at


def describe_together(genomes: Sequence[SpeciesGenome]) -> str:
    """Describe several species in a table; a species folder by itself is told in full."""
    datasets = [data for data in genomes if isinstance(data, SpeciesData)]
    lines = [_geometry(datasets), *_rows_together(datasets)] if datasets else []
    if alone := [data for data in genomes if not isinstance(data, SpeciesData)]:
        lines += [f"{len(alone)} genomes without tracks", *_rows_of_genomes(alone)]
    for data in genomes:
        if data.manifest.report.warnings:
            count = len(data.manifest.report.warnings)
            lines.append(f"{data.name}: {count} warnings; spacescale info {data.path}")
    return "\n".join(lines)


def _geometry(datasets: Sequence[SpeciesData]) -> str:
    first = datasets[0]
    return f"{len(datasets)} data sets; targets {first.target_length} bins of {first.bin_size} bp"


def _rows_of_genomes(genomes: Sequence[SpeciesGenome]) -> list[str]:
    rows = [["species", "Mb", "contigs", "repeats", "MiB", "split"]]
    for data in genomes:
        manifest = data.manifest
        bases = data.bases_of_splits()
        shown = " + ".join(f"{count / 1e6:.2f} {split}" for split, count in bases.items())
        told = manifest.sequence.lower_case if manifest.sequence else None
        stored = sum(contig.length for contig in manifest.contigs)
        rows.append(
            [
                data.name,
                shown,
                f"{len(manifest.contigs):,}",
                _percent(told / stored) if told else "-",
                f"{_bytes(manifest) / 2**20:.1f}",
                f"{manifest.split.method} {manifest.split.hash[:8]}",
            ]
        )
    return aligned(rows)


def _rows_together(datasets: Sequence[SpeciesData]) -> list[str]:
    rows = [
        ["species", "windows", "Mbp", "tracks", "assays", "MiB", "transform", "storage", "split"]
    ]
    for data in datasets:
        manifest = data.manifest
        transform, storage = manifest.transform, manifest.storage
        rows.append(
            [
                data.name,
                " + ".join(f"{count} {split}" for split, count in manifest.num_windows.items()),
                f"{data.distinct_bp(np.arange(len(data))) / 1e6:.2f}",
                str(len(data.tracks)),
                str(len({track.assay for track in data.tracks})),
                f"{_bytes(manifest) / 2**20:.1f}",
                f"{transform.name} v{transform.version}",
                f"{storage.format} {storage.codec}",
                f"{manifest.split.method} {manifest.split.hash[:8]}",
            ]
        )
    return aligned(rows)


def draw_coverage(path: Path, datasets: Sequence[SpeciesData]) -> str:
    """Draw mean and covered share of each track in each split; returns what was drawn of what.

    Raises UserError without matplotlib.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError("--figure needs matplotlib: pip install 'spacescale[plot]'") from None
    panels, notes = [], []
    for data in datasets:
        scan = _sample(data, _VALUES_FOR_FIGURE)
        note = _describe_sample(data, scan)
        assays = [track.assay for track in data.tracks]
        names = [track.identifier for track in data.tracks]
        title = f"{data.name}: {len(names):,} tracks, {note}"
        panels.append(figures.Coverage(title, names, assays, _in_split_order(scan.targets)))
        notes.append(f"{data.name}: {note}")
    figures.coverage(path, panels)
    return f"drawn        {path}: {'; '.join(notes)}"


def _sample(data: SpeciesData, values: int) -> Scan:
    """Read windows of every split, evenly spread, until that many target values are reached."""
    per_split = max(values // (data.target_length * len(data.tracks)), 1)
    per_split = max(per_split // len(data.manifest.num_windows), 1)
    rows = []
    for split in data.manifest.num_windows:
        there = data.rows(split)
        chosen = np.linspace(0, len(there) - 1, min(per_split, len(there))).round().astype(int)
        rows.append(there[np.unique(chosen)])
    return scan_windows(data, np.concatenate(rows))


def _describe_sample(data: SpeciesData, scan: Scan) -> str:
    count = sum(len(part.rows) for part in scan.bases)
    return f"all {count:,} windows" if count == len(data) else f"{count:,} of {len(data):,} windows"


def _in_split_order(targets: Mapping[str, TargetStatistics]) -> dict[str, TargetStatistics]:
    known = [split for split in ("train", "valid", "test") if split in targets]
    return {split: targets[split] for split in [*known, *sorted(targets.keys() - set(known))]}


def _bytes(manifest: GenomeManifest) -> int:
    return sum(entry.bytes for entry in manifest.files.values())


def _sources(manifest: GenomeManifest) -> str:
    sources = manifest.sources
    named = [sources.fasta, sources.targets, sources.split_bed, *sources.masks.values()]
    parts = [source.name for source in named if source]
    if sources.tracks:
        size = sum(source.bytes for source in sources.tracks)
        parts.append(f"{len(sources.tracks)} files of tracks ({size / 2**20:.1f} MiB)")
    if sources.imported:
        names = [source.name for source in sources.imported]
        parts.append(f"{len(names)} imported files ({shorten(names, 3)})")
    return ", ".join(parts) or "not known"


def _stride(manifest: Manifest) -> str:
    return f", every {manifest.stride:,} bp" if manifest.stride else ""


def _storage(data: SpeciesData) -> str:
    manifest = data.manifest
    storage = manifest.storage
    parts = {"targets/": 0, "shards/": 0, "genome/": 0}
    for name, entry in manifest.files.items():
        for part in parts:
            parts[part] += entry.bytes if name.startswith(part) else 0
    targets = parts["targets/"] + parts["shards/"]
    raw = len(data) * data.target_length * len(data.tracks) * 2
    kind = "targets and sequences" if storage.format == "webdataset" else "targets"
    return (
        f"{storage.format}, {storage.codec}, {storage.windows_per_shard} windows a shard; "
        f"{targets / 2**20:.1f} MiB of {kind} (targets as plain float16 {raw / 2**20:.1f} MiB, "
        f"ratio {raw / max(targets, 1):.2f}); "
        f"{parts['genome/'] / 2**20:.1f} MiB of genome; {_bytes(manifest) / 2**20:.1f} MiB in "
        f"{len(manifest.files) + 1} files"
    )


def _split(manifest: GenomeManifest) -> str:
    settings = [f"{name} {_joined(value)}" for name, value in manifest.split.settings.items()]
    return f"{', '.join([manifest.split.method, *settings])}; hash {manifest.split.hash[:16]}"


def _joined(value: str | int | float | list[str]) -> str:
    return "+".join(value) if isinstance(value, list) else str(value)


def _split_rows(data: SpeciesData, scan: Scan) -> list[list[str]]:
    """Return a table: windows, bp and share, and what the tracks are like there."""
    # Where what was not measured stands as 0, the targets do not tell; `_zero_filled` does.
    told = data.manifest.missing == "nan"
    measured_column = ["measured"] if told else []
    rows = [["split", "windows", "share", "Mbp", *measured_column, "above 0", "dead tracks"]]
    for split, count in data.manifest.num_windows.items():
        megabases = f"{data.distinct_bp(data.rows(split)) / 1e6:.2f}"
        row = [split, f"{count:,}", _percent(count / len(data)), megabases]
        statistics = scan.targets.get(split)
        if statistics:
            share = np.nanmedian(statistics.nonzero_share)
            dead = np.count_nonzero((statistics.nonzero == 0) & (statistics.measured > 0))
            measured = np.median(statistics.measured / statistics.bins)
            row += [*([_percent(measured)] if told else []), _percent(share), str(dead)]
        rows.append(row)
    return rows


def _assay_rows(data: SpeciesData) -> list[list[str]]:
    """Return a table: tracks of each assay, and medians over them from tracks.tsv."""
    rows = [["assay", "tracks", "stranded", "covered", "mean", "lowest mean", "highest mean"]]
    counts = Counter(track.assay for track in data.tracks)
    for assay in sorted(counts):
        tracks = [(row, track) for row, track in enumerate(data.tracks) if track.assay == assay]
        means = np.array([track.mean for _, track in tracks])
        covered = np.array([track.covered for _, track in tracks])
        stranded = sum(track.strand_pair != row for row, track in tracks)
        shown = _percent(float(np.nanmedian(covered))) if np.isfinite(covered).any() else "?"
        summary = np.median(means), means.min(), means.max()
        rows.append([assay, str(len(tracks)), str(stranded), shown, *(f"{x:.3g}" for x in summary)])
    return rows


def _zero_filled(data: SpeciesData) -> list[str]:
    """Say how much of the targets is 0 only because no file of a track has a value there."""
    if data.manifest.missing == "nan":
        return []
    covered = {track.identifier: track.covered for track in data.tracks}
    if any(np.isnan(share) for share in covered.values()):
        return [
            "zero-filled  not known: the set was imported, and does not tell 0 from not measured"
        ]
    lowest = min(covered, key=lambda name: covered[name])
    filled = 1 - float(np.mean(list(covered.values())))
    if not filled:
        return [
            "zero-filled  nothing: every base of the targets has a value in the files of tracks"
        ]
    return [
        f"zero-filled  {_percent(filled)} of the bases of the targets have no value in the files "
        f"of tracks and count as 0 ({lowest}: {_percent(1 - covered[lowest])}); shard.py "
        "--missing nan keeps them apart"
    ]


def _bases(scan: Scan) -> str:
    gc = np.concatenate([part.gc for part in scan.bases])
    unknown = np.concatenate([part.unknown for part in scan.bases])
    known = gc[np.isfinite(gc)]
    shown = "no known base"
    if known.size:
        low, middle, high = np.quantile(known, [0.05, 0.5, 0.95])
        shown = f"GC {middle:.3f} ({low:.3f} to {high:.3f} in nine of ten inputs)"
    return f"{shown}; N {_percent(float(np.nanmean(unknown)))} of the input"


def _warnings(data: SpeciesData, scan: Scan) -> list[str]:
    found = list(data.manifest.report.warnings)
    if scan.findings:
        found.append(
            f"{len(scan.findings)} faults in the windows looked at: run python "
            f"data_prep/verify.py {data.path}"
        )
    return _warning_lines(found)


def _warning_lines(found: Sequence[str]) -> list[str]:
    lines = [f"warning      {text}" for text in found[:_MOST_WARNINGS]]
    if len(found) > _MOST_WARNINGS:
        lines.append(f"warning      … and {len(found) - _MOST_WARNINGS} more in manifest.json")
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _table(name: str, rows: list[list[str]]) -> list[str]:
    return [f"{name if not i else '':<13}{line}" for i, line in enumerate(aligned(rows))]
