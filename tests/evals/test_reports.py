import json

from spacescale.evals.reports import AccRow, write_acc_table, write_metrics_json

NAN = float("nan")


def test_acc_table(tmp_path):
    path = tmp_path / "finch" / "acc.txt"
    write_acc_table(path, [AccRow(0, 0.5, 0.25, "a", "CAGE:a"), AccRow(7, NAN, NAN, "b", "")])
    assert [line.split("\t") for line in path.read_text().splitlines()] == [
        ["index", "pearsonr", "r2", "identifier", "description"],
        ["0", "0.50000", "0.25000", "a", "CAGE:a"],
        ["7", "nan", "nan", "b", ""],
    ]


def test_metrics_json_has_no_nan(tmp_path):
    path = tmp_path / "metrics.json"
    write_metrics_json(path, {"finch": {"cage": [0.5, NAN]}, "step": 3})
    assert json.loads(path.read_text()) == {"finch": {"cage": [0.5, None]}, "step": 3}
