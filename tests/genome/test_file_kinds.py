"""Files of other kinds are named by what they are, with the cure."""

import bz2
import gzip
import io
import lzma
import re
import shlex
import tarfile
import zipfile

import pytest

from spacescale.errors import UserError
from spacescale.genome.coverage import open_coverage
from spacescale.genome.file_kinds import kind_of, refuse_other_kinds
from spacescale.genome.tracks import Track

FASTA = b">chr1\nACGTACGT\n"


def tar_of(data):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("chr1.fa")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def zip_of(name, data=b"x"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bz2.compress(FASTA), "is compressed by bzip2: unpack it with bunzip2"),
        (lzma.compress(FASTA), "is compressed by xz: unpack it with unxz"),
        (b"\x28\xb5\x2f\xfd\x24", "is compressed by zstd: unpack it with unzstd"),
        (zip_of("hg38.fa"), "is compressed by zip: unpack it with unzip"),
        (zip_of("[Content_Types].xml"), "is a workbook, not a BED file: save the table as tab"),
        (tar_of(FASTA), "is a tar archive: unpack it with tar -xf"),
        (gzip.compress(tar_of(FASTA), mtime=0), "is a tar archive: unpack it with tar -xf"),
        (
            gzip.compress(gzip.compress(FASTA, mtime=0), mtime=0),
            "is compressed by gzip twice: unpack it with gunzip",
        ),
        (
            gzip.compress(b"BAM\1" + bytes(20), mtime=0),
            "is a BAM file of aligned reads, not a BED file",
        ),
        (b"CRAM\3\0", "is a CRAM file of aligned reads, not a BED file"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file, not a BED file"),
        (b"\xeb\xf2\x89\x87", "is a BigBed, not a BED file: convert it with bigBedToBed"),
        (b"<!DOCTYPE html>", "is an HTML or XML page, not a BED file: a failed download"),
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS.*: run git lfs pull"),
        (b"@read1\nACGT\n+\nIIII\n", "is a FASTQ file of reads, not a BED file"),
        (b"track type=wiggle_0\nfixedStep chrom=chr1 start=1\n", "convert it with wigToBigWig"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path, content, message):
    path = tmp_path / "given"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        refuse_other_kinds(path, "a BED file", {"gzip"})


def bam(folder, name):
    path = folder / name
    path.write_bytes(gzip.compress(b"BAM\1" + bytes(20), mtime=0))
    return path


@pytest.mark.parametrize("name", ["my reads.bam", "reads.bw"])
def test_a_bam_given_as_a_track_gets_the_command_that_makes_a_bigwig(tmp_path, name):
    path = bam(tmp_path, name)
    with pytest.raises(UserError) as caught:
        open_coverage(path, Track(0, "rna", name, 0))
    words = shlex.split(re.search(r"bamCoverage [^(]+", str(caught.value))[0])
    assert words[words.index("-b") + 1] == str(path)
    assert words[words.index("-o") + 1] == f"{path.stem}.bw"
    assert "--filterRNAstrand forward" in str(caught.value)
    assert f"-ibam {shlex.quote(str(path))} >" in str(caught.value)


@pytest.mark.parametrize("content, first", [(b"CRAM\3\0", "view -b"), (b"@HD\tVN:1.6\n", "sort")])
def test_crams_and_sams_become_bams_first(tmp_path, content, first):
    path = tmp_path / "reads.bigwig"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"not a BigWig: samtools {first} .*bamCoverage .*\.bam"):
        open_coverage(path, Track(0, "rna", path.name, 0))


def test_reads_in_place_of_a_genome_get_no_advice_on_coverage(tmp_path):
    with pytest.raises(UserError, match=r"is a BAM file of aligned reads, not a FASTA$"):
        refuse_other_kinds(bam(tmp_path, "a.bam"), "a FASTA", {"gzip"})


def test_what_is_accepted_within_gzip_is_to_be_unpacked(tmp_path):
    path = tmp_path / "given"
    path.write_bytes(gzip.compress(b"\x26\xfc\x8f\x88"))
    with pytest.raises(UserError, match="is a BigWig compressed by gzip: unpack it with gunzip"):
        refuse_other_kinds(path, "coverage", {"gzip", "bigwig"})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        FASTA,
        gzip.compress(FASTA, mtime=0),
        b"chr1\t0\t5\n",
        b"index\tidentifier\tfile\n",
        b"\x1f\x8b\x08",
    ],
)
def test_text_of_any_content_passes(tmp_path, content):
    path = tmp_path / "given"
    path.write_bytes(content)
    refuse_other_kinds(path, "a BED file", {"gzip"})
    assert kind_of(b"chr1\t0\t5\t1\n" * 9) is None
