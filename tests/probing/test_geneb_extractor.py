"""The extractor that is put into GENEB, and its protocol."""

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import matthews_corrcoef
from small_models import write_export

from spacescale.errors import UserError
from spacescale.predict.predictor import Predictor

FILE = Path(__file__).parents[2] / "docs" / "examples" / "geneb_extractor.py"


@pytest.fixture(scope="module")
def geneb():
    spec = importlib.util.spec_from_file_location("geneb_extractor", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("weights") / "tiny")


def texts(number, seed=0, low=20, high=40):
    random = np.random.default_rng(seed)
    return ["".join(random.choice(list("ACGT"), random.integers(low, high))) for _ in range(number)]


def test_features_are_means_over_bins_in_the_order_of_sequences(geneb, weights):
    extractor = geneb.SpaceScaleExtractor(name_model=f"{weights}:finch", device="cpu")
    sequences = [*texts(9), texts(9)[0]]
    found = extractor.extract_embeddings(sequences, 3)
    model = Predictor.load(weights, "finch", "cpu")
    wanted = np.stack([model.embed(text).mean(0) for text in sequences])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    assert found.dtype == np.float32 and found.shape == (10, 96)
    np.testing.assert_array_equal(found, extractor.embed(sequences, 3))


def test_faults_are_named(geneb, weights):
    with pytest.raises(UserError, match="say which species is meant"):
        geneb.SpaceScaleExtractor(str(weights), "cpu")
    with pytest.raises(UserError, match="no sequence"):
        geneb.SpaceScaleExtractor(f"{weights}:finch").extract_embeddings([])


def test_the_protocol_is_genebs(geneb):
    random = np.random.default_rng(0)
    labels = np.array(list("aab" * 20))
    features = random.normal(size=(60, 4)) + 2 * (labels == "b")[:, None]
    test = random.normal(size=(30, 4)), np.array(list("ab" * 15))
    found = geneb.evaluate((features, labels), test)
    assert list(found) == ["full", "10-shot", "1-shot"]
    full = LogisticRegression(max_iter=1000).fit(features, labels).predict(test[0])
    assert found["full"]["mcc"]["mean"] == pytest.approx(matthews_corrcoef(test[1], full))
    assert found["full"]["mcc"]["std"] == pytest.approx(0)
    scores = []
    for seed in (13, 17, 42, 123, 997):
        state = np.random.RandomState(seed)
        rows = np.concatenate(
            [state.choice(np.where(labels == one)[0], size=10, replace=False) for one in "ab"]
        )
        model = LogisticRegression(max_iter=1000).fit(features[rows], labels[rows])
        scores.append(matthews_corrcoef(test[1], model.predict(test[0])))
    assert found["10-shot"]["mcc"] == pytest.approx(
        {"mean": np.mean(scores), "std": np.std(scores)}
    )
    assert found["1-shot"]["mcc"]["std"] > 0


def test_tables_are_scored(geneb, weights, tmp_path, capsys):
    with (tmp_path / "motifs.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label", "split"])
        for i, text in enumerate(texts(36)):
            rows.writerow([text, i % 2, "test" if i % 3 == 0 else "train"])
    assert geneb.main([str(weights), str(tmp_path / "motifs.csv"), "--species", "finch"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["task"] == "motifs" and set(found["1-shot"]) == {"accuracy", "f1_score", "mcc"}
    (tmp_path / "odd.csv").write_text("text,label\nACGT,0\n")
    with pytest.raises(UserError, match=r"odd\.csv: no column split"):
        geneb.read_table(tmp_path / "odd.csv")
