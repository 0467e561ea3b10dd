"""A checkpoint of any (world, EP, ZeRO) goes on in any other, and exports the same bytes from it.

The default tier takes a spanning set of changes; `-m slow` takes all of them.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from reshaping import (
    LAYOUTS,
    SAVED_AT,
    WORLDS,
    Layout,
    checkpoint,
    go_on,
    sources,
)
from safetensors.torch import load_file, save_file

from spacescale.checkpoint import compatibility, layout
from spacescale.checkpoint.convert import convert
from spacescale.testing.ranks import run_ranks

pytestmark = pytest.mark.long

RELATIVE = 1e-4
STEPS, MORE_STEPS = 6, 20  # after the checkpoint; lost moments show in the second
ORIGINS = [Layout(2, 1, 1), Layout(2, 2, 2), Layout(2, 2, 3)]
TARGETS = [
    *(Layout(1, 1, zero) for zero in (1, 2, 3)),
    *ORIGINS,
    Layout(4, 1, 3),
    Layout(4, 2, 2),
    Layout(4, 4, 1),
    Layout(4, 4, 3),
]
SPANNING = [(ORIGINS[i % len(ORIGINS)], target) for i, target in enumerate(TARGETS)]
EVERY = [(origin, target) for origin in LAYOUTS for target in LAYOUTS]


@dataclass
class Matrix:
    """Runs that were never stopped, and those that went on from their checkpoints."""

    folder: Path
    steps: int  # that each run goes on for
    uninterrupted: dict[Layout, list[float]] = field(default_factory=dict)
    # (origin, target) → what each rank returned
    ranks: dict[tuple[str, Layout], list[dict]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def train(self, origins: list[Layout], timeout_s: float = 600) -> None:
        for world in sorted({origin.world for origin in origins}):
            ranks = run_ranks(sources, world, self.folder, origins, self.steps, timeout_s=timeout_s)
            self.uninterrupted |= ranks[0]

    def go_on(
        self, pairs: list[tuple[str, Layout]], damaged: list[str], timeout_s: float = 600
    ) -> None:
        for world in sorted({target.world for _, target in pairs}):
            results = run_ranks(
                go_on, world, self.folder, pairs, damaged, self.steps, timeout_s=timeout_s
            )
            ranks = [resumed for resumed, _ in results]
            self.ranks |= {pair: [rank[pair] for rank in ranks] for pair in ranks[0]}
            self.refused |= results[0][1]


@pytest.fixture(scope="module")
def spanning(tmp_path_factory):
    matrix = Matrix(tmp_path_factory.mktemp("spanning"), STEPS)
    matrix.train(ORIGINS)
    damage_copies(matrix.folder, ORIGINS[0])
    pairs = [(str(origin), target) for origin, target in SPANNING]
    matrix.go_on([*pairs, ("without-moments", Layout(1, 1, 1))], list(DAMAGES))
    return matrix


def curve_error(matrix: Matrix, pair: tuple[Layout, Layout]) -> float:
    losses = matrix.ranks[str(pair[0]), pair[1]][0]["losses"]
    expected = matrix.uninterrupted[pair[0]]
    assert len(losses) == len(expected) == matrix.steps
    return max(abs(a - b) / abs(b) for a, b in zip(losses, expected, strict=True))


def whole_state(folder: Path) -> dict[str, torch.Tensor]:
    """Every number of weights, moments and buffers; pieces of all ranks put together."""
    pieces: dict[str, dict[int, torch.Tensor]] = {}
    for path in folder.glob("state-*.safetensors"):
        for key, tensor in load_file(path).items():
            name, _, start = key.rpartition("/")
            pieces.setdefault(name, {})[int(start)] = tensor
    state = {name: torch.cat([t for _, t in sorted(p.items())]) for name, p in pieces.items()}
    return state | load_file(folder / "buffers.safetensors")


def assert_same_state(first: Path, second: Path) -> None:
    one, other = whole_state(first), whole_state(second)
    assert one.keys() == other.keys()
    differ = [name for name, tensor in one.items() if not torch.equal(tensor, other[name])]
    assert not differ, f"{first} and {second} differ in {differ[:3]}"


def assert_pair(matrix: Matrix, pair: tuple[Layout, Layout]) -> None:
    """What holds for every change of layout, and more where there is none."""
    origin, target = pair
    there = f"{origin}-to-{target}"
    for rank in matrix.ranks[str(origin), target]:
        assert (rank["step"], rank["adam_step"]) == (SAVED_AT, SAVED_AT + matrix.steps)
    assert_same_state(checkpoint(matrix.folder, origin), checkpoint(matrix.folder, there))
    if origin == target:
        assert curve_error(matrix, pair) == 0.0
        last = SAVED_AT + matrix.steps
        assert_same_state(
            checkpoint(matrix.folder, origin, last), checkpoint(matrix.folder, there, last)
        )
    assert curve_error(matrix, pair) <= RELATIVE


@pytest.mark.parametrize("pair", SPANNING, ids=lambda pair: f"{pair[0]}-to-{pair[1]}")
def test_a_run_goes_on_in_another_layout(spanning, pair):
    assert_pair(spanning, pair)


def export_bytes(source: Path, out: Path) -> bytes:
    convert(source, out)
    return (out / "model.safetensors").read_bytes()


def assert_same_exports(matrix: Matrix, pairs: list[tuple[Layout, Layout]], tmp_path: Path) -> None:
    """What was resumed and saved at once exports the bytes that its origin exports."""
    expected = {
        origin: export_bytes(checkpoint(matrix.folder, origin), tmp_path / str(origin))
        for origin in {origin for origin, _ in pairs}
    }
    for origin, target in pairs:
        there = f"{origin}-to-{target}"
        found = export_bytes(checkpoint(matrix.folder, there), tmp_path / there)
        assert found == expected[origin], there


def test_every_layout_exports_the_same_bytes(spanning, tmp_path):
    assert_same_exports(spanning, SPANNING, tmp_path)


def test_the_measure_sees_lost_optimiser_state(spanning):
    """The curves would betray a resumed run whose moments had not come along."""
    (rank,) = spanning.ranks["without-moments", Layout(1, 1, 1)]
    expected = spanning.uninterrupted[ORIGINS[0]]
    errors = [abs(a - b) / b for a, b in zip(rank["losses"], expected, strict=True)]
    assert max(errors) > 3 * RELATIVE


def test_random_states_come_back_or_begin_anew_on_every_rank(spanning):
    for (origin, target), ranks in spanning.ranks.items():
        states = [rank["random"] for rank in ranks]
        for rank, state in enumerate(states):
            stored = checkpoint(spanning.folder, origin) / f"rng-{rank:05d}.safetensors"
            if target.world == 2:
                assert torch.equal(state, load_file(stored)["cpu"])
            elif stored.exists():
                assert not torch.equal(state, load_file(stored)["cpu"])
        assert all(not torch.equal(states[0], other) for other in states[1:])
    (again,) = (r for p, r in spanning.ranks.items() if p[1] == Layout(4, 4, 1))
    (other,) = (r for p, r in spanning.ranks.items() if p[1] == Layout(4, 4, 3))
    for one, two in zip(again, other, strict=True):
        assert torch.equal(one["random"], two["random"]), "a function of seed, step and ranks"


# ---- What is refused ----------------------------------------------------------------------------


def without_moments(folder: Path) -> None:
    for path in folder.glob("state-*.safetensors"):
        tensors = load_file(path).items()
        save_file({k: t if k.startswith("weight/") else 0 * t for k, t in tensors}, path)
    layout.write_manifest(folder)


def without_second_rank(folder: Path) -> None:
    (folder / "state-00001.safetensors").unlink()


def without_second_rank_unnoticed(folder: Path) -> None:
    without_second_rank(folder)
    layout.write_manifest(folder)


def truncated(folder: Path) -> None:
    path = folder / "state-00000.safetensors"
    os.truncate(path, path.stat().st_size - 1)


def another_batch(folder: Path) -> None:
    path = folder / "spacescale.json"
    state = json.loads(path.read_text())
    state["layout"]["gradient_accumulation_steps"] = 3
    path.write_text(json.dumps(state))
    layout.write_manifest(folder)


def another_format(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 1}))


def another_order(folder: Path) -> None:
    path = folder / "spacescale.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 3}))
    layout.write_manifest(folder)
    manifest_file = folder / "manifest.json"
    manifest_file.write_text(manifest_file.read_text().replace('version": 4', 'version": 3'))


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (without_second_rank, r"state-00001\.safetensors: missing"),
    "gap": (
        without_second_rank_unnoticed,
        r"lacks \d+ parameters, the first \S+; a state-\*.safetensors file is",
    ),
    "truncated": (truncated, r"state-00000\.safetensors: \d+ bytes, expected \d+"),
    "batch": (
        another_batch,
        r"with 24 windows per step, this run has 8; .*data\.global_batch_size=24",
    ),
    "format": (another_format, "version 1; expected .* version 4"),
    "order": (another_order, "format version 3, of a run whose windows came in another order"),
}


def damage_copies(folder: Path, origin: Layout) -> None:
    """Copies of a run's checkpoint, each with something wrong."""
    damages = {name: damage for name, (damage, _) in DAMAGES.items()}
    for name, damage in {"without-moments": without_moments, **damages}.items():
        shutil.copytree(checkpoint(folder, origin), checkpoint(folder, name))
        damage(checkpoint(folder, name))


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_named_before_anything_is_loaded(spanning, name):
    assert re.search(DAMAGES[name][1], spanning.refused[name])


def test_poisoned_statistics_are_not_saved_over_the_last_clean_checkpoint(spanning):
    said = spanning.refused["poisoned"]
    assert re.search(r"buffers\.safetensors: stem\.1\.\S+running_var is not finite", said)


def laid_out(**changes: int) -> dict[str, int]:
    before = {"world_size": 2, "ep_size": 2, "zero_stage": 2, "micro_batch_size": 4}
    return before | {"gradient_accumulation_steps": 1} | changes


def test_a_change_of_layout_is_reported_in_one_line_and_none_in_none(caplog, tmp_path):
    caplog.set_level("INFO")
    compatibility._check_layout(tmp_path, laid_out(), laid_out())
    assert not caplog.messages
    now = laid_out(world_size=4, ep_size=1, zero_stage=3, micro_batch_size=2)
    compatibility._check_layout(tmp_path, laid_out(), now)
    assert caplog.messages == [
        f"{tmp_path}: saved by 2 processes, expert parallel 2, ZeRO-2; going on with 4 processes, "
        "expert parallel 1, ZeRO-3"
    ]


def test_another_number_of_micro_steps_is_warned_of(caplog, tmp_path):
    now = laid_out(micro_batch_size=2, gradient_accumulation_steps=2)
    compatibility._check_layout(tmp_path, laid_out(), now)
    assert "gradient_accumulation_steps was 1, is now 2; BatchNorm" in caplog.messages[-1]


# ---- All of it ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    matrix = Matrix(tmp_path_factory.mktemp("every"), MORE_STEPS)
    matrix.train(LAYOUTS, timeout_s=3600)
    return matrix


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_every_layout_goes_on_in_every_layout(trained, world, tmp_path):
    pairs = [(origin, target) for origin, target in EVERY if target.world == world]
    trained.go_on([(str(origin), target) for origin, target in pairs], [], timeout_s=7200)
    for pair in pairs:
        assert_pair(trained, pair)
    assert_same_exports(trained, pairs, tmp_path)
    worst = max(pairs, key=lambda pair: curve_error(trained, pair))
    print(
        f"{len(pairs)} changes; worst {curve_error(trained, worst):.1e}, {worst[0]} to {worst[1]}"
    )
