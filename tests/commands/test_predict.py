"""`spacescale predict` on a real run: files that a browser opens, and one clear line otherwise."""

import json

import numpy as np
import pytest
from commands import SPECIES

import spacescale
from spacescale.cli import main
from spacescale.genome.bigwig import BigWig

NAME = next(iter(SPECIES))


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    path = tmp_path_factory.mktemp("genome") / "genome.fa"
    letters = np.random.default_rng(0).choice(list("ACGT"), 3000)
    path.write_text(f">chrA\n{''.join(letters)}\n>chrB\nACGTN\n")
    return path


def predict(monkeypatch, run, fasta, out, *more):
    words = ["predict", "--weights", str(run), "--fasta", str(fasta), "--out", str(out), *more]
    monkeypatch.setattr("sys.argv", ["spacescale", *words])
    return main()


def test_a_region_becomes_bigwigs(alone, fasta, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    more = ["--species", NAME, "--regions", "chrA:500-900", "--both-strands", "--unit", "stored"]
    assert predict(monkeypatch, alone[0], fasta, out, *more) == 0
    predictor = spacescale.Predictor.load(alone[0], NAME, "cpu")
    assert f"{len(predictor.tracks)} tracks in stored" in capsys.readouterr().out
    record = json.loads((out / "predicted.json").read_text())
    assert record["unit"].startswith("stored: ") and record["both_strands"] is True
    assert len(list(out.glob("*.bw"))) == len(predictor.tracks) == len(record["tracks"])
    assert "chrA:501-900" in (out / "igv_session.xml").read_text()
    with BigWig(out / f"{predictor.tracks[0].identifier}.bw") as bigwig:
        values = bigwig.read("chrA", 500, 900)
    assert np.isfinite(values).all() and (values > 0).all()
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--regions", "chrA:0-9"], "say which species is meant"),
        (["--species", NAME, "--regions", "chrA:0-9000"], "has 3,000 bp of chrA"),
        (["--species", NAME, "--regions", "A"], "--regions A: expected CONTIG:START-END"),
        (["--species", NAME, "--regions", "chrA", "--tracks", "cgae"], "no track 'cgae'"),
        (["--species", NAME, "--regions", "chrA", "--batch", "0"], "--batch 0: must be 1 or more"),
        (["--species", NAME, "--regions", "chrA", "--device", "gpu"], "--device gpu: "),
        (
            ["--species", NAME, "--regions", "chrA", "--device", "gpu", "--jobs", "2"],
            "--device gpu",
        ),
    ],
)
def test_what_cannot_be_predicted_is_one_line(
    alone, fasta, tmp_path, monkeypatch, capsys, more, message
):
    assert predict(monkeypatch, alone[0], fasta, tmp_path / "out", *more) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_a_pseudocount_is_a_number_above_0(tmp_path, monkeypatch, capsys, value):
    """Said before any weights are looked for."""
    words = ["score-variants", "some.vcf", "--weights", "nowhere", "--fasta", "some.fa"]
    words += [f"--pseudocount={value}", "--out", str(tmp_path / "effects.tsv")]
    monkeypatch.setattr("sys.argv", ["spacescale", *words])
    assert main() == 2
    assert f"--pseudocount {value}: must be above 0" in capsys.readouterr().err
