"""Write and read manifest.json, which tells by its own checksum when it was altered."""

import hashlib
import json
import re
from pathlib import Path

from pydantic import ValidationError

from spacescale.dataset.schema import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    OLDEST_VERSION,
    GenomeManifest,
    Manifest,
)
from spacescale.errors import UserError
from spacescale.files import write_text

_CHECKSUM = re.compile(rb'"checksum": "[0-9a-f]{64}"')
_NO_CHECKSUM = b'"checksum": ""'


def save_manifest(folder: Path, manifest: GenomeManifest) -> None:
    """Write manifest.json with its checksum; comes last, as it says that all files are there."""
    blank = _to_text(manifest, checksum="")
    text = _to_text(manifest, checksum=hashlib.sha256(blank).hexdigest())
    write_text(folder / MANIFEST, text)


def _to_text(manifest: GenomeManifest, checksum: str) -> bytes:
    complete = manifest.model_copy(update={"checksum": checksum})
    return (complete.model_dump_json(indent=1) + "\n").encode()


def read_manifest(folder: Path) -> tuple[GenomeManifest, str]:
    """Return the manifest of a dataset folder and the SHA-256 of the file in hex.

    It is a Manifest if the species has tracks. Raises UserError when there is none, and when it is
    damaged or of another format version.
    """
    if not folder.is_dir():
        raise UserError(f"no such dataset folder: {folder}")
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder} is no species dataset: it has no {MANIFEST}")
    text = path.read_bytes()
    try:
        plain = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error})") from error
    _check_format(folder, plain)
    blank = _CHECKSUM.sub(_NO_CHECKSUM, text)
    if plain.get("checksum") != hashlib.sha256(blank).hexdigest():
        raise UserError(f"{path} is damaged or was edited: its checksum differs")
    kind = Manifest if "num_tracks" in plain else GenomeManifest
    try:
        return kind.model_validate(plain), hashlib.sha256(text).hexdigest()
    except ValidationError as error:
        raise UserError(f"{path} is damaged ({error})") from error


def _check_format(folder: Path, plain: object) -> None:
    found = plain.get("format_version") if isinstance(plain, dict) else None
    if not isinstance(plain, dict) or not isinstance(found, int) or plain.get("format") != FORMAT:
        raise UserError(f"{folder / MANIFEST} is not the manifest of a {FORMAT} dataset")
    if OLDEST_VERSION <= found <= FORMAT_VERSION:
        return
    cure = "upgrade spacescale" if found > FORMAT_VERSION else "make it again, from its sources"
    raise UserError(
        f"{folder} has format version {found}, this spacescale reads {OLDEST_VERSION} to "
        f"{FORMAT_VERSION}: {cure}"
    )


def find_species(path: Path) -> list[Path]:
    """Return the species folders at a path: itself, or all that lie in it.

    Raises UserError when there is none.
    """
    if path.is_file():
        raise UserError(f"{path}: a file; give the folder of a dataset, or of several")
    if not path.is_dir():
        raise UserError(f"{path}: no such folder")
    if (path / MANIFEST).is_file():
        return [path]
    inside = sorted(p.parent for p in path.glob(f"*/{MANIFEST}") if p.parent.name[0] != ".")
    if not inside:
        raise UserError(
            f"{path}: no species folder here (no {MANIFEST} in it or one level below); "
            "make one with data_prep/shard.py, or of a genome alone with data_prep/genome.py"
        )
    return inside
