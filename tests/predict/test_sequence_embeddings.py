import numpy as np
import pytest
from small_models import genome, predictor
from tiny_models import some_codes

from spacescale.errors import UserError
from spacescale.predict.sequence_embeddings import (
    Named,
    embed,
    read_sequences,
    sequences_of_places,
)


def mixed():
    return [Named(str(n), some_codes(1, n, seed=n).numpy()[0]) for n in (37, 5, 37, 120)]


@pytest.mark.parametrize("pool", ["mean", "max", "sum"])
def test_mixed_lengths_keep_their_order(tmp_path, pool):
    model = predictor()
    shape = embed(model, mixed(), tmp_path / "a.npz", "transformer.0", pool)
    found = np.load(tmp_path / "a.npz")
    assert found["names"].tolist() == ["37", "5", "37", "120"]
    expected = [getattr(model.embed(one.codes, "transformer.0"), pool)(0) for one in mixed()]
    np.testing.assert_allclose(found["features"], expected, rtol=1e-4, atol=1e-5)
    assert found["features"].shape == shape == (4, 48)


def test_without_pooling_every_position_is_kept(tmp_path):
    assert embed(predictor(), mixed()[::2], tmp_path / "a.npz", pool="none") == (2, 5, 96)
    with pytest.raises(UserError, match="5 to 120 bp: --pool none needs one length"):
        embed(predictor(), mixed(), tmp_path / "b.npz", pool="none")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_sequences_from_fasta_and_tables(tmp_path):
    fasta, table = tmp_path / "a.fa", tmp_path / "a.csv"
    fasta.write_text(">one\nACGT\n>two\nGG\n")
    table.write_text("label,sequence\n0,ACGT\n1,GG\n\n")
    (tmp_path / "a.tsv").write_text("sequence\tlabel\nacgt\t0\nGG\t1\n")
    for path, names in (
        (fasta, ["one", "two"]),
        (table, ["1", "2"]),
        (tmp_path / "a.tsv", ["1", "2"]),
    ):
        found = read_sequences(path)
        assert [one.name for one in found] == names
        assert [one.codes.tolist() for one in found] == [[0, 1, 2, 3], [2, 2]]


def test_sequences_of_places(tmp_path):
    dna, fasta = genome(), tmp_path / "genome.fa"
    fasta.write_text(">chr1\n" + "".join("ACGTN"[c] for c in dna.contigs["chr1"]) + "\n")
    (found,) = sequences_of_places(predictor(), fasta, ["chr1:300-333"])
    assert found.name == "chr1:300-333"
    assert (found.codes == dna.contigs["chr1"][300:333]).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seq,label\nACGT,0\n", r"a.csv:1: no column 'sequence'; it has seq, label"),
        ("label,sequence\n0\n", r"a.csv:2: 1 cells; the header has 2"),
        ("sequence,label\nACG,0\n,1\n", r"a.csv:3: a sequence of 0 bp"),
        ("sequence\nACGTACGZ\n", r"a.csv:2:8 has 'Z'"),
    ],
)
def test_tables_that_hold_no_sequences(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_sequences(tmp_path / "a.csv")


def test_what_cannot_be_embedded(tmp_path):
    with pytest.raises(UserError, match="layer 'last': this model has stem, "):
        embed(predictor(), mixed(), tmp_path / "a.npz", "last")
    with pytest.raises(UserError, match="no sequence to embed"):
        embed(predictor(), [], tmp_path / "a.npz")
    with pytest.raises(UserError, match=r"ends with .npz"):
        embed(predictor(), mixed(), tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []
