"""Features as BEND reads them: its loader is webdataset's."""

from pathlib import Path

import numpy as np
import pytest
import webdataset
from small_models import BIN, predictor
from tiny_models import some_codes

from spacescale.cli import build_parser
from spacescale.errors import UserError
from spacescale.predict.bend_files import export_bend
from spacescale.tasks.task import Examples, Task


def task_of(kind="labels", number=5):
    lengths = [40, 40, 37, 40, 21]
    codes = [some_codes(1, n, seed=i).numpy()[0] for i, n in enumerate(lengths)]
    random = np.random.default_rng(0)
    targets = random.integers(0, 2, (number, 3)).astype(np.float32)
    if kind == "classes":
        targets = np.arange(number) % 3
    found = Examples(codes, targets, [f"place {i}" for i in range(number)])
    splits = {"train": found, "valid": found.take(np.array([1])), "test": found.take(np.array([2]))}
    return Task("marks", Path("marks.bed"), "bend", kind, ("a", "b", "c"), splits)


def read(paths):
    """As BEND's return_dataloader does."""
    data = webdataset.WebDataset([str(p) for p in paths], shardshuffle=False).decode()
    return list(data.to_tuple("__key__", "input.npy", "output.npy"))


@pytest.mark.parametrize("layer, width", [("pointwise", BIN), ("stem", 2)])
def test_every_base_has_the_features_of_its_position(tmp_path, layer, width):
    model, task = predictor(), task_of()
    paths = export_bend(model, task, tmp_path / "out", layer, chunk=2)
    names = [f"train_{i}.tar.gz" for i in range(3)] + ["valid_0.tar.gz", "test_0.tar.gz"]
    assert [path.name for path in paths] == names
    rows = read(paths[:3])
    assert [key for key, *_ in rows] == [f"sample_{i}" for i in range(5)]
    for (_, features, labels), codes, wanted in zip(
        rows, task.splits["train"].codes, task.splits["train"].targets, strict=True
    ):
        positions = model.embed(codes, layer)
        assert features.shape == (1, len(codes), positions.shape[1])
        assert features.dtype == np.float32 and labels.dtype == np.int64
        at = np.arange(len(codes)) // width
        np.testing.assert_allclose(features[0], positions[at], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(labels, wanted)


def test_classes_are_numbers_and_unknown_labels_are_refused(tmp_path):
    task = task_of("classes")
    export_bend(predictor(), task, tmp_path / "a")
    found = read([tmp_path / "a" / "train_0.tar.gz"])
    assert [labels.tolist() for *_, labels in found] == [[0], [1], [2], [0], [1]]
    task = task_of()
    task.splits["test"].targets[0, 1] = np.nan
    with pytest.raises(UserError, match="place 2: a label that is not known"):
        export_bend(predictor(), task, tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--format", "bend"], "--format bend and --task belong together"),
        (["--task", "a.bed"], "--format bend and --task belong together"),
        (["--format", "bend", "--task", "a", "--pool", "max"], "--pool do not go with it"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    args = build_parser().parse_args(["embed", "--weights", "w", "--out", "o", *options])
    with pytest.raises(UserError, match=message):
        args.run(args)


def test_the_command_writes_them(tmp_path, monkeypatch, capsys):
    from spacescale.predict import commands

    monkeypatch.setattr(commands, "_predictor", lambda args: predictor())
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.csv").write_text("sequence,label\nACGTACGTAC,0\nGGGTTTACCA,1\n")
    args = build_parser().parse_args(
        ["embed", "--weights", "w", "--task", str(tmp_path), "--format", "bend", "--out",
         str(tmp_path / "out")]
    )  # fmt: skip
    args.run(args)
    assert capsys.readouterr().out.endswith("out: 3 files of pointwise\n")
    assert len(read([tmp_path / "out" / "valid_0.tar.gz"])) == 2
