import gzip
import sys
from dataclasses import replace

import pytest
from small_models import LENGTHS, genome

from spacescale.errors import UserError
from spacescale.predict.vcf import Variant, read_vcf, reason_to_skip, ref_matches

HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


def vcf_of(path, *rows, header=HEADER):
    path.write_text(header + "".join("\t".join(row) + "\n" for row in rows))
    return path


def test_alleles_are_split_and_positions_count_from_0(tmp_path):
    path = vcf_of(tmp_path / "a.vcf", ("chr1", "10", "rs1", "a", "c,AT", ".", ".", "."))
    assert list(read_vcf(path)) == [
        Variant(3, "chr1", 9, "rs1", "A", "C"),
        Variant(3, "chr1", 9, "rs1", "A", "AT"),
    ]


@pytest.mark.parametrize("header", [HEADER, "##fileformat=VCFv4.2\n", ""])
def test_gzip_and_files_without_column_names(tmp_path, header):
    path = vcf_of(tmp_path / "a.vcf", ("chr1", "1", ".", "A", "C"), header=header)
    packed = tmp_path / "a.vcf.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert [v.alt for v in read_vcf(packed)] == [v.alt for v in read_vcf(path)] == ["C"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("chr1", "1", ".", "A"), r"a.vcf:3: 4 columns parted by tabs"),
        (("chr1", "x", ".", "A", "C"), r"a.vcf:3: POS 'x'"),
    ],
)
def test_lines_that_are_no_record_are_named(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        list(read_vcf(vcf_of(tmp_path / "a.vcf", row)))


@pytest.mark.parametrize(
    ("ref", "alt", "reason"),
    [
        ("A", "*", "no alternative allele"),
        ("A", ".", "no alternative allele"),
        ("A", "<DEL>", "symbolic allele"),
        ("A", "A[chr2:5[", "breakend"),
        ("N", "A", "letters other than ACGT"),
        ("A", "R", "letters other than ACGT"),
        ("A", "A", "REF and ALT are the same"),
        ("A", "A" * 31, "allele longer than 30 bp"),
        ("A", "C", ""),
    ],
)
def test_what_is_not_scored_has_a_reason(ref, alt, reason):
    assert reason_to_skip(Variant(1, "chr1", 5, ".", ref, alt), genome(), 30) == reason


def test_places_that_are_not_there_have_a_reason():
    there = Variant(1, "chr2", 56, ".", "A", "C")
    assert reason_to_skip(there, genome(), 30) == ""
    beyond = Variant(1, "chr2", 56, ".", "AC", "C")
    assert reason_to_skip(beyond, genome(), 30) == "beyond the ends of the contig"
    telomere = Variant(1, "chr2", -1, ".", "A", "C")
    assert reason_to_skip(telomere, genome(), 30) == "beyond the ends of the contig"
    masked = genome()
    masked.contigs["chr2"][10] = 4
    assert (
        reason_to_skip(Variant(1, "chr2", 9, ".", "AC", "C"), masked, 30) == "N in the genome there"
    )
    assert (
        reason_to_skip(Variant(1, "2", 5, ".", "A", "C"), genome(), 30) == "contig not in the FASTA"
    )


def test_ref_is_held_against_the_genome():
    base = "ACGT"[genome().contigs["chr1"][7]]
    other = "CGTA"["ACGT".index(base)]
    assert ref_matches(Variant(1, "chr1", 7, ".", base, other), genome())
    assert not ref_matches(Variant(1, "chr1", 7, ".", other, base), genome())


CONTIGS = "".join(f"##contig=<ID={name},length={n}>\n" for name, n in LENGTHS.items())


@pytest.fixture
def both(tmp_path):
    """The same records as VCF and as BCF."""
    pysam = pytest.importorskip("pysam")
    more = (
        '##ALT=<ID=DEL,Description="gone">\n##INFO=<ID=END,Number=1,Type=Integer,Description="">\n'
    )
    header = HEADER.replace("#CHROM", CONTIGS + more + "#CHROM")
    rows = [
        ("chr1", "10", "rs1", "a", "c,AT", ".", ".", "."),
        ("chr1", "12", ".", "G", ".", ".", ".", "."),
        ("chrX", "3", "sv", "T", "<DEL>", ".", ".", "."),
        ("chrX", "333", ".", "N", "A[chr1:5[", ".", ".", "."),
    ]
    path = vcf_of(tmp_path / "a.vcf", *rows, header=header)
    with (
        pysam.VariantFile(str(path)) as vcf,
        pysam.VariantFile(str(tmp_path / "a.bcf"), "wb", header=vcf.header) as bcf,
    ):
        for record in vcf:
            bcf.write(record)
    return path, tmp_path / "a.bcf"


def test_a_bcf_has_the_variants_of_its_vcf(both):
    vcf, bcf = map(list, map(read_vcf, both))
    first = vcf[0].line - 1
    assert [replace(v, line=v.line - first) for v in vcf] == bcf
    assert [v.line for v in bcf] == [1, 1, 2, 3, 4]


def test_a_truncated_bcf_is_refused(both, capfd):
    content = both[1].read_bytes()
    for size in (20, len(content) // 2, len(content) - 30):
        both[1].write_bytes(content[:size])
        with pytest.raises(UserError, match=r"a\.bcf"):
            list(read_vcf(both[1]))
    assert capfd.readouterr().err == ""


def test_without_its_library_bcf_gets_its_cure(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pysam", None)
    (tmp_path / "a.bcf").write_bytes(gzip.compress(b"BCF\x02\x02" + bytes(50)))
    with pytest.raises(UserError, match=r"spacescale\[bcf\].*bcftools view"):
        list(read_vcf(tmp_path / "a.bcf"))
