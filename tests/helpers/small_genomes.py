"""Small genomes without tracks, and datasets as an older spacescale wrote them."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np

from spacescale.dataset.folder import list_files
from spacescale.dataset.manifest import read_manifest, save_manifest
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.prepare.genome_dataset import make_genome
from spacescale.prepare.options import GenomeOptions
from spacescale.splits.options import SplitOptions

LENGTHS = {"chrI": 3_001, "chrII": 2_000, "chrIII": 1_500, "chrM": 403}


def letters_of(name: str, length: int) -> bytes:
    """Bases of a contig: 20 % in lower case; 400 N in chrI from 1,000 on."""
    random = np.random.default_rng(list(name.encode()))
    letters = np.frombuffer(b"ACGT", np.uint8)[random.integers(0, 4, length)]
    letters[(np.arange(length) // 50) % 5 == 0] |= 0x20
    if name == "chrI":
        letters[1000:1400] = ord("N")
    return letters.tobytes()


def write_fasta(path: Path, **sequences: bytes) -> Path:
    """Write the contigs of LENGTHS, or those given by name; lines of 60 letters."""
    path.parent.mkdir(parents=True, exist_ok=True)
    given = sequences or {name: letters_of(name, length) for name, length in LENGTHS.items()}
    with path.open("wb") as file:
        for name, letters in given.items():
            lines = [letters[i : i + 60] for i in range(0, len(letters), 60)]
            file.write(b"\n".join([b">" + name.encode(), *lines]) + b"\n")
    return path


def genome_options(fasta: Path, out: Path, **changes) -> GenomeOptions:
    """Species `tiny`; chrII valid, chrIII test. changes: of either options."""
    splits = {"valid_chroms": ("chrII",), "test_chroms": ("chrIII",)}
    splits = {name: changes.pop(name, value) for name, value in splits.items()}
    for name in vars(SplitOptions()).keys() & changes.keys():
        splits[name] = changes.pop(name)
    settings = {"species": "tiny", "out": out, "fasta": fasta, "splits": SplitOptions(**splits)}
    return GenomeOptions(**(settings | changes))


def small_genome(folder: Path, **changes) -> SpeciesGenome:
    """Make such a genome in a folder and open it."""
    fasta = write_fasta(folder / "genome.fa")
    return SpeciesGenome.open(make_genome(genome_options(fasta, folder / "out", **changes)))


def as_version_2(folder: Path, target: Path) -> Path:
    """Copy a dataset with tracks as spacescale wrote it before format version 3."""
    shutil.copytree(folder, target)
    manifest, _ = read_manifest(folder)
    (target / "sequence.bed").unlink()
    shutil.rmtree(target / "repeats", ignore_errors=True)
    group = json.loads((target / "zarr.json").read_text())
    group["attributes"]["format_version"] = 2
    (target / "zarr.json").write_text(json.dumps(group))
    changes = {"format_version": 2, "sequence": None, "files": list_files(target)}
    save_manifest(target, manifest.model_copy(update=changes))
    path = target / "manifest.json"
    plain = json.loads(path.read_text())
    del plain["sequence"]  # version 2 had no such field
    blank = json.dumps(plain | {"checksum": ""}, indent=1) + "\n"
    plain["checksum"] = hashlib.sha256(blank.encode()).hexdigest()
    path.write_text(json.dumps(plain, indent=1) + "\n")
    return target
