import pytest

from spacescale.errors import UserError
from spacescale.genome.aliases import (
    auto_aliases,
    describe_unknown,
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
