"""What a file is, told from its first bytes: for messages about files that cannot be read as given.

Kinds that somebody may give for a genome, coverage, a BED, a table or a training set. What is
none of them may still be right; that is for the reader to find.
"""

import re
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from spacescale.errors import UserError

_HEAD_BYTES = 4096


@dataclass(frozen=True)
class FileKind:
    """A format or packing.

    what: reads after "FILE is". cure: what to do when something else is wanted, or "". packed:
    what is wanted may be inside.
    """

    name: str
    what: str
    cure: str = ""
    packed: bool = False


def _packed_by(program: str, unpacker: str) -> FileKind:
    return FileKind(program, f"compressed by {program}", f"unpack it with {unpacker}", packed=True)


_GZIP = _packed_by("gzip", "gunzip")
_TAR = FileKind("tar", "a tar archive", "unpack it with tar -xf", packed=True)
BIGWIG = FileKind("bigwig", "a BigWig")
_BIGBED = FileKind("bigbed", "a BigBed", "convert it with bigBedToBed")
_TWO_BIT = FileKind("2bit", "a 2bit genome")
_WORKBOOK = FileKind("workbook", "a workbook", "save the table as tab separated text")

# The first that fits counts.
_PATTERNS: list[tuple[bytes, FileKind]] = [
    (rb"\x1f\x8b", _GZIP),
    (rb"BZh[1-9]", _packed_by("bzip2", "bunzip2")),
    (rb"\xfd7zXZ\0", _packed_by("xz", "unxz")),
    (rb"\x28\xb5\x2f\xfd", _packed_by("zstd", "unzstd")),
    (rb"\x04\x22\x4d\x18", _packed_by("lz4", "unlz4")),
    (rb"\x1f\x9d", _packed_by("compress", "uncompress")),
    (rb"7z\xbc\xaf\x27\x1c", _packed_by("7-Zip", "7z x")),
    (rb"Rar!\x1a\x07", _packed_by("RAR", "unrar")),
    (rb"PK\x03\x04.{,4096}?(\[Content_Types\]\.xml|xl/|opendocument\.spreadsheet)", _WORKBOOK),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _WORKBOOK),
    (rb"PK(\x03\x04|\x05\x06)", _packed_by("zip", "unzip")),
    (rb".{257}ustar", _TAR),
    (rb"\x26\xfc\x8f\x88|\x88\x8f\xfc\x26", BIGWIG),
    (rb"\xeb\xf2\x89\x87|\x87\x89\xf2\xeb", _BIGBED),
    (rb"\x43\x27\x41\x1a|\x1a\x41\x27\x43", _TWO_BIT),
    (rb"\x89HDF\r\n\x1a\n", FileKind("hdf5", "an HDF5 file")),
    (rb"BAM\x01", FileKind("bam", "a BAM file of aligned reads")),
    (rb"CRAM[\x01-\x04]", FileKind("cram", "a CRAM file of aligned reads")),
    (rb"@(HD|SQ|RG|PG|CO)\t", FileKind("sam", "a SAM file of aligned reads")),
    (rb"(TBI|CSI|BAI)\x01", FileKind("index", "the index of another file")),
    (rb"TDF[34]", FileKind("tdf", "a TDF file of IGV", "convert it with igvtools tdftobedgraph")),
    (rb"PAR1[^\t -~]", FileKind("parquet", "a Parquet table")),
    (rb"\x93NUMPY", FileKind("numpy", "a NumPy array")),
    (rb"%PDF", FileKind("pdf", "a PDF document")),
    (rb"version https://git-lfs", FileKind("lfs", "a pointer of Git LFS", "run git lfs pull")),
    (rb"(\xef\xbb\xbf)?\s*<[!?A-Za-z]",
     FileKind("html", "an HTML or XML page", "a failed download?")),
    (rb"##fileformat=VCF", FileKind("vcf", "a file of variants")),
    (rb"BCF[\x02-\x04]", FileKind("bcf", "a binary file of variants", "bcftools view makes a VCF")),
    (rb"##gff-version", FileKind("gff", "a GFF file of annotations")),
    (rb"LOCUS  ", FileKind("genbank", "a GenBank record", "take the FASTA of it")),
    (rb"ID   \S+;", FileKind("embl", "an EMBL record", "take the FASTA of it")),
    (rb"@[^\r\n]*\r?\n[A-Za-z.]+\r?\n\+", FileKind("fastq", "a FASTQ file of reads")),
    (rb"([^\n]*\n){,20}?(fixedStep|variableStep)\s",
     FileKind("wiggle", "a wiggle file", "convert it with wigToBigWig")),
]  # fmt: skip


def kind_of(start: bytes) -> FileKind | None:
    """Return what the first bytes of a file say it is (4,096 of them do), None if nothing."""
    return next((kind for form, kind in _PATTERNS if re.match(form, start, re.DOTALL)), None)


def refuse_other_kinds(
    path: Path,
    wanted: str,
    accepted: Collection[str] = (),
    cures: Mapping[str, str] | None = None,
    inside: Collection[str] = (),
) -> None:
    """Raise UserError naming what a file is and the cure, if it is of a kind not accepted.

    wanted: what it should be, with its article. accepted: names of kinds; where gzip is one, what
    is inside must be of no kind but those of `inside`. cures: {name of a kind: what to do where
    this is wanted}. A file of no known kind passes.
    """
    cures = cures or {}
    try:
        with path.open("rb") as file:
            start = file.read(_HEAD_BYTES)
    except OSError as error:
        raise UserError(f"cannot read {wanted}, {path}: {error.strerror}") from error
    kind = kind_of(start)
    if kind is None:
        return
    if kind.name not in accepted:
        raise UserError(f"{path} is {_described(kind, wanted, cures)}")
    packed = kind_of(_unpacked(start)) if kind is _GZIP else None
    if packed is not None and packed.name not in inside:
        raise UserError(f"{path} is {_described_inside(packed, wanted, accepted, cures)}")


def _described(kind: FileKind, wanted: str, cures: Mapping[str, str]) -> str:
    other = "" if kind.packed else f", not {wanted}"
    cure = cures.get(kind.name, kind.cure)
    return f"{kind.what}{other}" + (f": {cure}" if cure else "")


def _described_inside(
    kind: FileKind, wanted: str, accepted: Collection[str], cures: Mapping[str, str]
) -> str:
    if kind is _GZIP:
        return "compressed by gzip twice: unpack it with gunzip"
    if kind.name in accepted:
        return f"{kind.what} compressed by gzip: unpack it with gunzip"
    return _described(kind, wanted, cures)


def _unpacked(start: bytes) -> bytes:
    """Return the first bytes inside a gzip file, none if it is damaged."""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(start, _HEAD_BYTES)
    except zlib.error:
        return b""
