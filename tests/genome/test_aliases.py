import re

import pytest

from spacescale.errors import UserError
from spacescale.genome.aliases import (
    auto_aliases,
    describe_tried,
    describe_unknown,
    explain_unknown,
    match_styles,
    read_aliases,
    suggest,
)

YEAST = {"chrI": 230_218, "chrII": 813_184, "chrM": 85_779}


@pytest.mark.parametrize(
    "names, expected",
    [
        ({"II": 813_184, "Mito": 85_779}, {"II": "chrII", "Mito": "chrM"}),
        ({"MT": 85_779, "CHRI": 230_218}, {"MT": "chrM", "CHRI": "chrI"}),
        (
            {"CHROMOSOME_II": 813_184, "CHROMOSOME_MtDNA": 85_779},  # as WormBase writes names
            {"CHROMOSOME_II": "chrII", "CHROMOSOME_MtDNA": "chrM"},
        ),
        ({"Chromosome": 813_184}, {}),
        ({"II": 813_185}, {}),  # another assembly: the length differs
        ({"chrII": 813_184}, {}),  # no alias needed
        ({"2": 813_184}, {}),  # Roman numerals stay Roman
    ],
)
def test_auto(names, expected):
    assert auto_aliases(names, YEAST) == expected


def test_auto_adds_and_drops_the_chr_prefix():
    assert auto_aliases({"chr1": 9}, {"1": 9}) == {"chr1": "1"}
    assert auto_aliases({"1": 9}, {"chr1": 9}) == {"1": "chr1"}


def test_auto_leaves_names_alone_that_fit_two_contigs():
    assert auto_aliases({"MT": 9}, {"chrM": 9, "Mito": 9}) == {}


@pytest.mark.parametrize("text", ["II\tchrII\nMito\tchrM\n", "chrII\tII\n# comment\nchrM\tMito\n"])
def test_file_in_either_direction(tmp_path, text):
    path = tmp_path / "aliases.tsv"
    path.write_text(text)
    assert read_aliases(path, YEAST) == {"II": "chrII", "Mito": "chrM"}


def test_file_faults_name_the_line(tmp_path):
    path = tmp_path / "aliases.tsv"
    path.write_text("II\tchrII\nIX\tchrIX\n")
    with pytest.raises(UserError, match=r"aliases.tsv:2: the FASTA has no contig 'chrIX'.*chrI"):
        read_aliases(path, YEAST)
    path.write_text("II\tchrII\nMito\tchrM\nII\tchrI\n")
    with pytest.raises(UserError, match=r"aliases.tsv:3: II stands for chrII and for chrI"):
        read_aliases(path, YEAST)
    path.write_text("Mito\tchrM\nchrII\tchrI\n")
    with pytest.raises(UserError, match=r"aliases.tsv:2: chrII and chrI are both .* the FASTA"):
        read_aliases(path, YEAST)
    path.write_text("II\n")
    with pytest.raises(UserError, match=r"aliases.tsv:1: expected two columns, found 1"):
        read_aliases(path, YEAST)


@pytest.mark.parametrize(
    "name, expected", [("II", "chrII"), ("IV", "chrIV"), ("MT", "chrM"), ("1", "chr1")]
)
def test_suggestions_prefer_the_same_name_in_another_style(name, expected):
    names = ["chr1", "chrI", "chrII", "chrIII", "chrIV", "chrVI", "chrM"]
    assert suggest(name, names) == f"; did you mean {expected}?"


def test_suggestions_without_a_match_are_near_names_or_the_first_few():
    assert suggest("chrI1", YEAST) == "; did you mean chrI, chrII, chrM?"
    assert suggest("scaffold", YEAST) == "; there are chrI, chrII, chrM"


def test_styles_match_only_where_one_contig_fits():
    assert match_styles(["II", "Mito", "chrI", "X"], YEAST) == {"II": "chrII", "Mito": "chrM"}
    assert match_styles(["1"], ["chr1", "Chr1"]) == {}


def test_all_unknown_contigs_are_described():
    text = describe_unknown(["II", "MT", "scaffold"], YEAST, offer_auto=True)
    assert text.startswith("the FASTA has no contigs II, MT, scaffold; did you mean")
    assert "II = chrII, MT = chrM?" in text and "--aliases auto" in text
    assert "--aliases" not in describe_unknown(["II", "MT"], YEAST)
    assert "--aliases" not in describe_unknown(["scaffold"], YEAST, offer_auto=True)
    many = describe_unknown([f"scaffold{n}" for n in range(9)], YEAST)
    assert many.endswith("… (9 in all); there are chrI, chrII, chrM")


NCBI = {"NC_1.11": 9, "NC_2.12": 8, "NC_M.1": 7}
LONG = (
    "# sequenceName\talias names\tUCSC database: x\nchr1\tNC_1.11\trefseq\nchr2\tNC_2.12\trefseq\n"
)
WIDE = (
    "# ucsc\tassembly\tgenbank\tncbi\trefseq\n"
    "chr1\t1\tCM1.2\t1\tNC_1.11\n"
    "chrM\tMT\tJ1.1\tMT\tNC_M.1\n"
    "chrUn_1\tHSCHRUN\tKI1.1\t\t\n"
)
REPORT = (
    "# Sequence-Name\tSequence-Role\tAssigned-Molecule\tLocation\tGenBank\tRel\tRefSeq\tUnit\t"
    "Length\tUCSC\n"
    "1\tassembled-molecule\t1\tChromosome\tCM1.2\t=\tNC_1.11\tPrimary Assembly\t9\tchr1\r\n"
    "2\tassembled-molecule\t2\tChromosome\tCM2.2\t=\tNC_2.12\tPrimary Assembly\t8\tchr2\r\n"
    "loc\tunlocalized-scaffold\t2\tChromosome\tKI2.2\t<>\tna\tPrimary Assembly\t5\tna\r\n"
)


@pytest.mark.parametrize(
    "text, expected",
    [
        (LONG, {"chr1": "NC_1.11", "chr2": "NC_2.12"}),
        # A row per alias: those of one contig are tied over it.
        (LONG + "chr1\t1\tensembl,assembly\n", {"chr1": "NC_1.11", "1": "NC_1.11"}),
        ("NC_1.11\tchr1\trefseq\nCM1.2\tchr1\tgenbank\nNC_2.12\tchr2\trefseq\n",
         {"CM1.2": "NC_1.11", "chr1": "NC_1.11", "chr2": "NC_2.12"}),
        (WIDE, {"chr1": "NC_1.11", "1": "NC_1.11", "CM1.2": "NC_1.11", "chrM": "NC_M.1"}),
        (WIDE + WIDE, {"chr1": "NC_1.11", "chrM": "NC_M.1"}),
        (REPORT, {"chr1": "NC_1.11", "chr2": "NC_2.12", "2": "NC_2.12", "CM2.2": "NC_2.12"}),
    ],
)  # fmt: skip
def test_public_tables(tmp_path, text, expected):
    (tmp_path / "aliases.txt").write_text(text)
    found = read_aliases(tmp_path / "aliases.txt", NCBI)
    assert found.items() >= expected.items()
    assert not {"refseq", "chrUn_1", "loc", "", "na", "="} & found.keys()


def test_a_public_table_of_another_genome_is_refused(tmp_path):
    (tmp_path / "aliases.txt").write_text(WIDE)
    with pytest.raises(
        UserError, match=r"aliases.txt names no contig of the FASTA: .* CM1.2, .*; the FASTA"
    ):
        read_aliases(tmp_path / "aliases.txt", {"scaffold_1": 9})
    with pytest.raises(UserError, match=r"aliases.txt:2: CM1.2 and NC_1.11 are both contigs"):
        read_aliases(tmp_path / "aliases.txt", {"NC_1.11": 9, "CM1.2": 9})


def test_two_names_of_a_contig_and_quotes(tmp_path):
    (tmp_path / "aliases.txt").write_text('"II"\t"chrII"\n2 chrII\n')
    assert read_aliases(tmp_path / "aliases.txt", YEAST) == {"II": "chrII", "2": "chrII"}


@pytest.mark.parametrize(
    "name, length, expected",
    [
        ("NC_001133.9", 230_218, r"for NC_001133.9 it looks for NC_001133.9, in any case, .*"
         r"\(its 230,218 bp are those of chrI\)"),
        ("CHROMOSOME_X", None, "for CHROMOSOME_X it looks for X, in any case, .* without chr"),
        ("chr2", 9, "for chr2 it looks for 2, in any case, .*, and not for a Roman numeral"),
        ("II", 813_185, "II has 813,185 bp, chrII has 813,184"),
        ("II", None, "II is chrII only if it has as many bp in the tracks"),
    ],
)  # fmt: skip
def test_what_auto_tried_is_told(name, length, expected):
    assert re.fullmatch(expected, describe_tried({name: length}, YEAST))


def test_auto_tells_of_names_that_fit_twice_and_of_how_many_more_there_are():
    assert describe_tried({"MT": 9}, {"chrM": 9, "Mito": 9}) == "MT may be any of chrM, Mito"
    text = describe_tried(dict.fromkeys(["a", "b", "c"]), YEAST)
    assert text.endswith("; and so on, 3 names in all") and "for c" not in text


def test_unknown_names_are_told_what_auto_tried_unless_it_is_the_cure():
    assert explain_unknown(["II"], YEAST, True).endswith("names that differ only in style")
    assert "auto has no match: II is chrII only if" in explain_unknown(["II"], YEAST)
    assert "auto has no match: for chr11 it" in explain_unknown(["chr11"], YEAST, True)
