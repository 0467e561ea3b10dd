"""The manifest of a species dataset; README.md says what each field means on disk."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT = "spacescale-species"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Strict):
    """Size and SHA-256 of a file."""

    bytes: int
    sha256: str


class Source(FileEntry):
    """A file the dataset was made from; only its name is kept, no path of the machine."""

    name: str


class Sources(_Strict):
    """Everything the dataset was made from. tracks: one per row of tracks.tsv."""

    fasta: Source
    targets: Source
    tracks: list[Source]
    split_bed: Source | None = None


class Contig(_Strict):
    """A contig that carries windows: its length and its offset in `genome`, in bp."""

    name: str
    length: int
    offset: int


class TransformInfo(_Strict):
    """Which transform made the targets, see spacescale.genome.transforms."""

    name: str
    version: int


class Report(_Strict):
    """What was left out or changed on the way.

    dropped_unknown_bases: windows whose target was more than half N.
    contigs_without_tracks: {contig: tracks that lack it; 'every track', or the first 20}.
    extra_contigs: {contig of the tracks that the FASTA lacks: number of tracks}.
    too_short: contigs or intervals shorter than one target. unassigned: contigs in no split.
    ambiguous_bases: IUPAC letters read as N. saturated_bins: {track: bins beyond float16}.
    """

    dropped_unknown_bases: int = 0
    contigs_without_tracks: dict[str, list[str]] = Field(default_factory=dict)
    extra_contigs: dict[str, int] = Field(default_factory=dict)
    too_short: list[str] = Field(default_factory=list)
    unassigned: list[str] = Field(default_factory=list)
    ambiguous_bases: int = 0
    saturated_bins: dict[str, int] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)


class Manifest(_Strict):
    """manifest.json. Lengths in bp, except target_length in bins."""

    format: Literal["spacescale-species"] = FORMAT
    format_version: Literal[1] = FORMAT_VERSION
    species: str
    seq_length: int
    bin_size: int
    target_length: int
    stride: int
    transform: TransformInfo
    num_windows: dict[str, int]
    num_tracks: int
    mean_over: Literal["train", "all"]
    contigs: list[Contig]
    aliases: dict[str, str]
    sources: Sources
    report: Report
    files: dict[str, FileEntry]
    created_with: dict[str, str]
