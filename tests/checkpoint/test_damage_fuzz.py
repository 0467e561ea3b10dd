"""Random damage to every file of a run: found, named in one line, and no other weights loaded."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
import torch
from checkpoints import write_run
from torch import Tensor

from spacescale.checkpoint import overview
from spacescale.checkpoint.convert import convert
from spacescale.checkpoint.found import find_start
from spacescale.errors import UserError
from spacescale.evals.info import describe
from spacescale.metrics.writer import RunLog, read_metrics
from spacescale.predict.trained_model import load_trained

TRACKS = "index\tidentifier\tfile\n0\t{0}1\t{0}1.bw\n"


@dataclass
class Fuzzed:
    """A sound run, its weights, and a copy to damage."""

    sound: Path
    weights: dict[str, Tensor]
    copy: Path

    def damage(self, random: Random, name: str) -> str:
        """Flip a bit of a file of the copy, or cut it; says where."""
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.sound, self.copy)
        path = self.copy / name
        content = bytearray(path.read_bytes())
        place = random.randrange(len(content))
        if random.random() < 0.25:
            os.truncate(path, place)
            return f"{name} cut to {place} bytes"
        bit = random.randrange(8)
        content[place] ^= 1 << bit
        path.write_bytes(content)
        return f"{name}: bit {bit} of byte {place}"

    def same_weights(self) -> bool:
        loaded = load_trained(self.copy).model.state_dict()
        return all(torch.equal(loaded[name], tensor) for name, tensor in self.weights.items())


@pytest.fixture
def fuzzed(tmp_path):
    run = tmp_path / "run"
    written = write_run(run, TRACKS)
    (run / "config.json").write_text(json.dumps({"run": "1234"}))
    with (run / "metrics.jsonl").open("w") as log:
        for step in range(1, 8):
            log.write(json.dumps({"step": step, "time": 1.5 * step, "train/loss": 0.5}) + "\n")
    (run / "checkpoints/best").write_text(written.checkpoint.name)
    return Fuzzed(run, written.model.state_dict(), tmp_path / "copy")


def files_of(run: Path, in_checkpoint: bool) -> list[str]:
    names = [p.relative_to(run).as_posix() for p in sorted(run.rglob("*")) if p.is_file()]
    return [name for name in names if ("step-" in name) == in_checkpoint]


def refuse(command, *arguments) -> str | None:
    """What a command says of damage, in one line; None where it says nothing."""
    try:
        command(*arguments)
    except UserError as error:
        assert "\n" not in str(error)
        return str(error)
    return None


def check_found(fuzzed: Fuzzed, where: str) -> None:
    """Every command that reads it all says that the checkpoint is damaged."""
    checkpoint = next(fuzzed.copy.glob("checkpoints/step-*"))
    for command, arguments in (
        (find_start, (fuzzed.copy, "auto")),
        (find_start, (fuzzed.copy, "must")),
        (describe, (fuzzed.copy, True)),
        (load_trained, (fuzzed.copy,)),
    ):
        said = refuse(command, *arguments)
        assert said is not None and checkpoint.name in said, f"{where}: {command.__name__}: {said}"
    refuse(describe, fuzzed.copy)
    (row,) = overview.look(fuzzed.copy, verify=True)
    assert row.problem, where


def check_many(fuzzed: Fuzzed, names: list[str], count: int, seed: int) -> None:
    random = Random(seed)
    for number in range(count):
        check_found(fuzzed, fuzzed.damage(random, names[number % len(names)]))


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_damage_to_any_file_of_a_checkpoint_is_found(fuzzed, count):
    check_many(fuzzed, files_of(fuzzed.sound, True), count, seed=1)


@pytest.mark.parametrize("count", [60, pytest.param(6000, marks=pytest.mark.slow)])
def test_damage_to_a_manifest_is_found(fuzzed, count):
    (manifest,) = (n for n in files_of(fuzzed.sound, True) if n.endswith("manifest.json"))
    check_many(fuzzed, [manifest], count, seed=2)


def test_damage_to_any_other_file_of_a_run_keeps_nobody_from_the_weights(fuzzed, tmp_path):
    random, names = Random(3), files_of(fuzzed.sound, False)
    assert names == ["checkpoints/best", "checkpoints/latest", "config.json", "metrics.jsonl"]
    for number in range(12):
        where = fuzzed.damage(random, names[number % len(names)])
        assert find_start(fuzzed.copy, "auto").problems == (), where
        assert describe(fuzzed.copy, verify=True), where
        assert fuzzed.same_weights(), where
        RunLog(fuzzed.copy, resume_step=5).close()
        kept = [record["step"] for record in read_metrics(fuzzed.copy / "metrics.jsonl")]
        assert set(kept) <= {*range(1, 6)} and len(kept) >= 4 - ("cut" in where) * 4, where


def test_convert_makes_nothing_of_a_damaged_checkpoint(fuzzed, tmp_path):
    random = Random(4)
    for name in files_of(fuzzed.sound, True):
        where = fuzzed.damage(random, name)
        assert refuse(convert, fuzzed.copy, tmp_path / "export"), where
        assert not (tmp_path / "export").exists()
