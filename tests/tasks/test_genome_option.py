"""`--genome` of one file, and of a file for each class."""

import argparse
from pathlib import Path

import pytest

from spacescale.tasks.genome_option import add_genome_option


@pytest.fixture
def parse():
    parser = argparse.ArgumentParser()
    add_genome_option(parser)
    return lambda *words: parser.parse_args(words).genome


def test_one_file_or_one_for_each_class(parse):
    assert parse() is None
    assert parse("--genome", "hg38.fa") == Path("hg38.fa")
    assert parse("--genome", "./of=two/hg38.fa") == Path("of=two/hg38.fa")
    assert parse("--genome", "human=hg38.fa", "--genome=worm=a/ce11.2bit") == {
        "human": Path("hg38.fa"),
        "worm": Path("a/ce11.2bit"),
    }


@pytest.mark.parametrize("words", [("a=x.fa", "y.fa"), ("x.fa", "a=y.fa"), ("x.fa", "y.fa"),
                                   ("a=x.fa", "a=y.fa")])  # fmt: skip
def test_what_does_not_go_together(parse, words, capsys):
    with pytest.raises(SystemExit):
        parse(*(word for file in words for word in ("--genome", file)))
    assert "--genome: expected one FILE, or CLASS=FILE once for each" in capsys.readouterr().err
