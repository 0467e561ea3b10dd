"""Check species datasets completely: files, tables, every base and every target."""

from pathlib import Path

import numpy as np

from spacescale.dataset.manifest import find_species, read_manifest
from spacescale.dataset.reader import SpeciesData, species_of
from spacescale.dataset.schema import MANIFEST, GenomeManifest, Manifest
from spacescale.errors import UserError
from spacescale.verify.content import check_bases, check_genome, check_targets, scan_windows
from spacescale.verify.files import check_files, check_layout, check_tables
from spacescale.verify.findings import Finding, error, warning
from spacescale.verify.sequence import check_contigs, check_repeats, check_sequence_table

_TABLES = "windows.bed", "sequence.bed"


def verify(path: Path, workers: int = 1) -> dict[Path, list[Finding]]:
    """Check a species folder, or a folder of them and that they fit together.

    Returns {species folder: findings}, no finding being good. Reads every file twice, once for
    the checksum and once for the content. Each process holds one window, a few numbers per track
    and window, and the bases of a genome of at most 256 MiB. Raises
    UserError when there is no species folder.
    """
    found = {
        folder: [error("manifest", folder / MANIFEST, "is missing: copy the dataset again")]
        for folder in _without_manifest(path)
    }
    folders = [] if path in found else find_species(path)
    manifests: dict[Path, GenomeManifest] = {}
    for folder in folders:
        found[folder] = verify_species(folder, workers)
        try:
            manifests[folder] = read_manifest(folder)[0]
        except UserError:
            continue  # found already
    for finding in check_together(manifests):
        found[finding.file.parent].append(finding)
    return dict(sorted(found.items()))


def _without_manifest(path: Path) -> list[Path]:
    """Return folders that were datasets: find_species cannot tell them from any others."""
    folders = [path, *path.glob("[!.]*")]
    return [
        folder
        for folder in folders
        if any((folder / table).is_file() for table in _TABLES)
        and not (folder / MANIFEST).is_file()
    ]


def verify_species(folder: Path, workers: int = 1) -> list[Finding]:
    """Check one species folder; see `verify`."""
    try:
        manifest, manifest_hash = read_manifest(folder)
    except UserError as problem:
        return [error("manifest", folder / MANIFEST, str(problem))]
    findings = list(check_files(folder, manifest))
    try:
        data = species_of(folder, manifest, manifest_hash)
        findings += [*check_contigs(data), *check_sequence_table(data)]
    except (OSError, UserError) as problem:
        return [*findings, error("tables", folder, str(problem))]
    if isinstance(data, SpeciesData):
        findings += check_tables(data)
    if faults := list(check_layout(data)):
        return findings + faults
    findings += [*check_genome(data), *check_repeats(data)]
    if not isinstance(data, SpeciesData):
        return findings
    scan = scan_windows(data, np.arange(len(data), dtype=np.int64), workers)
    findings += scan.findings
    findings += check_bases(data, scan.bases)
    return findings + list(check_targets(data, scan.targets))


def check_together(manifests: dict[Path, GenomeManifest]) -> list[Finding]:
    """Compare species that are to be trained on together, by {folder: manifest}."""
    findings: list[Finding] = []
    with_tracks = {f: m for f, m in manifests.items() if isinstance(m, Manifest)}
    first = next(iter(with_tracks.items()), None)
    names: dict[str, Path] = {}
    for folder, manifest in manifests.items():
        path = folder / MANIFEST
        if manifest.species in names:
            what = f"is species {manifest.species!r}, as {names[manifest.species]} is"
            findings.append(error("species", path, what))
        names.setdefault(manifest.species, folder)
        if not isinstance(manifest, Manifest):
            continue
        assert first
        other, expected = first
        for name in ("bin_size", "target_length"):
            if getattr(manifest, name) != getattr(expected, name):
                what = f"{name} is {getattr(manifest, name)}, {getattr(expected, name)} in {other}"
                findings.append(error("species", path, what))
        if manifest.seq_length != expected.seq_length:
            what = f"seq_length is {manifest.seq_length}, {expected.seq_length} in {other}"
            findings.append(warning("species", path, what))
    return findings
