"""Turn a dataset of format version 1 into version 2, in place; targets and genome stay as is."""

import hashlib
import json
from pathlib import Path
from typing import Any

from spacescale.data.checksums import file_entry, list_files
from spacescale.data.manifest import save_manifest
from spacescale.data.schema import FORMAT, FORMAT_VERSION, MANIFEST, Manifest
from spacescale.errors import UserError
from spacescale.genome.intervals import Interval, split_hash


def migrate(folder: Path) -> bool:
    """Bring a dataset folder to the current format version; False if it has it already.

    What version 1 could not say has one meaning only: missing values were stored as 0, targets by
    PCodec with 16 windows a shard, contigs whole. Before anything is changed, the SHA-256 of every
    file is compared with the manifest. Two small files are replaced, each atomically, the manifest
    last; a migration that was killed can be repeated. Raises UserError when the folder is no
    dataset, is damaged, or has another version.
    """
    old = _read_plain(folder)
    if old.get("format_version") == FORMAT_VERSION:
        return False
    if old.get("format_version") != 1:
        raise UserError(
            f"{folder} has format version {old.get('format_version')}; only version 1 can be "
            f"migrated to {FORMAT_VERSION}: upgrade spacescale"
        )
    group = folder / "zarr.json"
    group_text = _raise_version(group)
    try:
        _refuse_damaged(folder, old["files"], hashlib.sha256(group_text).hexdigest())
        new = Manifest.model_validate(_convert(folder, old))
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as problem:
        raise UserError(f"{folder / MANIFEST} is damaged ({problem})") from problem
    temporary = folder / ".zarr.json.new"
    temporary.write_bytes(group_text)
    temporary.replace(group)
    save_manifest(
        folder, new.model_copy(update={"files": new.files | {group.name: file_entry(group)}})
    )
    return True


def _read_plain(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{folder} is no species dataset: it has no {MANIFEST}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{path} is not the manifest of a {FORMAT} dataset")
    return manifest


def _raise_version(group: Path) -> bytes:
    """Return the text of a zarr group's file with the current format version in its attributes."""
    try:
        plain = json.loads(group.read_bytes())
        plain["attributes"]["format_version"] = FORMAT_VERSION
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{group} is damaged ({error})") from error
    return json.dumps(plain, indent=2).encode()


def _refuse_damaged(folder: Path, expected: dict[str, Any], migrated_group: str) -> None:
    """Compare every file with the old manifest; zarr.json may have been migrated already."""
    found = {name: entry.sha256 for name, entry in list_files(folder).items()}
    leftovers = {".zarr.json.new", f".{MANIFEST}.new"}  # of a migration that was killed
    wrong = [
        name
        for name in sorted((found.keys() | expected.keys()) - leftovers)
        if found.get(name) != expected.get(name, {}).get("sha256")
        and not (name == "zarr.json" and found.get(name) == migrated_group)
    ]
    if wrong:
        raise UserError(
            f"{folder}: differing from the manifest, so nothing was changed: {', '.join(wrong)}"
        )


def _convert(folder: Path, old: dict[str, Any]) -> dict[str, Any]:
    text = (folder / "windows.bed").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines()]
    windows = [Interval(chrom, int(start), int(end), split) for chrom, start, end, split in rows]
    return old | {
        "format_version": FORMAT_VERSION,
        "missing": "zero",
        "storage": {"format": "zarr", "codec": "pcodec", "windows_per_shard": 16},
        "split": {"method": _split_method(old), "hash": split_hash(windows)},
    }


def _split_method(old: dict[str, Any]) -> str:
    if old["sources"]["split_bed"]:
        return "bed"
    held_out = any(text.startswith("no split was given") for text in old["report"]["warnings"])
    return "held_out" if held_out else "chroms"
