"""Kill a run again and again, and hold what comes out against one that was left alone.

    python benchmarks/soak.py --kills 50 --out /tmp/soak

Trains a small model on the embedded data with two processes on the CPU, once undisturbed and once
with every process killed (SIGKILL), in turn at a random moment of the start-up, after some steps,
and while it saves. Each start is `--resume auto`. Prints what was compared, and ends
with status 1 where anything differs: the loss of every step and the bytes of the last checkpoint,
the checkpoints that are damaged, processes and shared memory left behind.

    python benchmarks/soak.py --hours 2 --kill-every 60 --out /tmp/soak

Trains for so long instead, killed so often, and is told to stop at the end. Prints how the memory
of the ranks grew while they trained, their open descriptors, what is left in /dev/shm, and the
share of the time that was useful, from the run's history.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spacescale.checkpoint.found import list_checkpoints, newest_sound
from spacescale.checkpoint.layout import checkpoints_folder, verify
from spacescale.errors import UserError
from spacescale.metrics.history import summarise
from spacescale.metrics.writer import METRICS_FILE, read_metrics
from spacescale.parallel.comm import free_port

ROOT = Path(__file__).parents[1]
RANKS = 2
SAMPLE_S = 15.0
WARM_UP_S = 600.0  # of a start, whose memory is not taken into the slope: caches fill


def command(output: Path, steps: int, save_every: int) -> list[str]:
    """The small run, in so many steps."""
    return [
        str(Path(sys.executable).with_name("deepspeed")),
        *("--num_gpus", str(RANKS), "--master_port", str(free_port())),
        "spacescale/pretrain.py",
        *("--deepspeed", "ds_configs/zero2_moe.json", "--output", str(output), "--resume", "auto"),
        *(f"optim.max_steps={steps}", "optim.warmup_steps=5", "run.log_every=1"),
        *(f"run.save_every={save_every}", f"run.valid_every={steps}", "data.micro_batch_size=2"),
        *("model.dim=48", "model.dim_divisible_by=8", "model.depth=1", "model.attn_dim_key=8"),
    ]


def start(output: Path, steps: int, save_every: int = 5) -> subprocess.Popen:
    """Start it, or go on with it, in a session of its own."""
    with (output.parent / "log.txt").open("a") as log:
        return subprocess.Popen(
            command(output, steps, save_every),
            cwd=ROOT,
            env=os.environ | {"DS_ACCELERATOR": "cpu"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def ranks(output: Path) -> list[int]:
    """Processes whose command line names the run folder."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        if process.name.isdecimal() and str(output).encode() in words:
            found.append(int(process.name))
    return found


def kill_all(run: subprocess.Popen, output: Path) -> None:
    """Kill all processes of the run, also those that come up meanwhile, and wait for its end."""
    while run.poll() is None or ranks(output):
        for pid in (run.pid, *ranks(output)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)


class Moment(NamedTuple):
    """When a start is killed: this many seconds after it began, or so many steps, or in a save.

    In any case once a step is done that should not be, so that every kill happens.
    """

    seconds: float
    steps: int
    saving: bool

    def has_come(self, output: Path, began: float, steps_before: int) -> bool:
        """Whether it is now."""
        if self.saving:
            return any(checkpoints_folder(output).glob("*.partial/*"))
        new_steps = len(losses(output)) - steps_before
        return new_steps > self.steps or (
            not self.steps and (new_steps > 0 or time.monotonic() - began > self.seconds)
        )


def moments(seed: int, first_step_s: float) -> Iterator[Moment]:
    """In turn: while it starts, some steps later, while it saves."""
    draw = random.Random(seed)
    while True:
        yield Moment(draw.uniform(0, first_step_s), 0, saving=False)
        yield Moment(0, draw.randint(1, 8), saving=False)
        yield Moment(0, 0, saving=True)


def with_kills(output: Path, steps: int, kills: Iterable[Moment]) -> int:
    """Train to the end through these kills; returns how many there were."""
    done = 0
    for moment in kills:
        before, began = len(losses(output)), time.monotonic()
        run = start(output, steps)
        while not moment.has_come(output, began, before):
            if run.poll() is not None:
                raise SystemExit(f"ended, {run.returncode}, unkilled; {output.parent / 'log.txt'}")
            time.sleep(0.002 if moment.saving else 0.05)
        kill_all(run, output)
        done += 1
        print(f"\rkill {done}", end="", file=sys.stderr, flush=True)
    if status := start(output, steps).wait():
        raise SystemExit(f"the run ended with status {status}; {output.parent / 'log.txt'}")
    return done


def usage(pid: int) -> tuple[float, int] | None:
    """Resident memory (MiB) and open descriptors of a process; None where it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        kib = int(status.partition("VmRSS:")[2].split()[0])
        return kib / 1024, len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except (OSError, IndexError):
        return None


def train_for(output: Path, hours: float, kill_every_min: float) -> list[tuple[float, float, int]]:
    """Train so long, killed so often, told to stop at the end.

    Returns the samples of the ranks and their readers: minutes in the start, MiB and descriptors,
    each added up over the processes of the run.
    """
    samples, end = [], time.monotonic() + 3600 * hours
    while True:
        run, began = start(output, steps=10**6, save_every=50), time.monotonic()
        until = min(end, began + 60 * kill_every_min)
        while time.monotonic() < until and run.poll() is None:
            time.sleep(SAMPLE_S)
            found = [used for pid in ranks(output) if (used := usage(pid))]
            age_s = time.monotonic() - began
            samples.append((age_s, sum(m for m, _ in found), sum(n for _, n in found)))
            print(f"\r{(end - time.monotonic()) / 60:.0f} min left ", end="", file=sys.stderr)
        if run.poll() is not None:
            raise SystemExit(f"the run ended with status {run.poll()}; {output.parent / 'log.txt'}")
        if until < end:
            kill_all(run, output)
            continue
        run.terminate()
        run.wait()
        return samples


def soak_for(out: Path, hours: float, kill_every_min: float) -> int:
    """Train so long and print what grew; returns the exit status."""
    shared = {path.name for path in Path("/dev/shm").iterdir()}
    samples = np.array(train_for(out / "long", hours, kill_every_min))
    warm = samples[samples[:, 0] > WARM_UP_S]
    slope = np.polyfit(warm[:, 0] / 3600, warm[:, 1], 1)[0]
    summary = summarise(out / "long")
    print(f"\n{summary.starts} starts, {summary.steps_lost} steps repeated")
    print(f"useful share of the time: {summary.useful_share:.1%}")
    print(f"memory of all processes: {warm[:, 1].mean():.0f} MiB, {slope:+.1f} MiB an hour")
    print(f"descriptors of all processes: {warm[:, 2].min():.0f} to {warm[:, 2].max():.0f}")
    print(f"left in /dev/shm: {sorted({p.name for p in Path('/dev/shm').iterdir()} - shared)}")
    return 1 if damaged(out / "long") or ranks(out / "long") else 0


def losses(output: Path) -> dict[int, float]:
    """Step → loss, exactly as it was computed."""
    if not (output / METRICS_FILE).is_file():
        return {}
    records = read_metrics(output / METRICS_FILE)
    return {r["step"]: r["train/loss"] for r in records if "train/loss" in r}


def fingerprint(output: Path) -> str:
    """Of the tensors of the newest checkpoint, on all ranks."""
    newest, _ = newest_sound(list_checkpoints(checkpoints_folder(output)))
    digest = hashlib.sha256()
    for path in sorted(newest.glob("*.safetensors")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def damaged(output: Path) -> list[str]:
    """What is wrong with the checkpoints that stand there."""
    found = []
    for checkpoint in list_checkpoints(checkpoints_folder(output)):
        try:
            verify(checkpoint)
        except UserError as error:
            found.append(str(error))
    return found


def main() -> int:
    """Run both and compare; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="default: %(default)s")
    parser.add_argument("--steps", type=int, help="default: 4 for every kill, 40 at least")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--hours", type=float, help="train so long, instead of so many steps")
    parser.add_argument("--kill-every", type=float, default=60, help="minutes, with --hours")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    args = parser.parse_args()
    if args.hours and 60 * min(args.kill_every, 60 * args.hours) < 2 * WARM_UP_S:
        parser.error(f"--hours and --kill-every: at least {2 * WARM_UP_S / 60:.0f} minutes")
    steps = args.steps or max(40, 4 * args.kills)
    out = args.out.resolve()
    out.mkdir(parents=True)
    if args.hours:
        return soak_for(out, args.hours, args.kill_every)
    shared = {path.name for path in Path("/dev/shm").iterdir()}
    alone, killed = out / "alone", out / "killed"
    began = time.time()
    with_kills(alone, steps, [])
    first_step_s = read_metrics(alone / METRICS_FILE)[0]["time"] - began
    done = with_kills(killed, steps, islice(moments(args.seed, first_step_s), args.kills))
    summary = summarise(killed)
    left = {path.name for path in Path("/dev/shm").iterdir()} - shared
    found = {
        "steps": len(losses(killed)) == steps,
        "losses, bit by bit": losses(killed) == losses(alone),
        "last checkpoint, bit by bit": fingerprint(killed) == fingerprint(alone),
        "checkpoints sound": not damaged(killed),
        "no process left": not ranks(killed),
        "nothing left in /dev/shm": not left,
    }
    print(
        f"\n{done} kills in {summary.starts} starts, {steps} steps, {summary.steps_lost} repeated"
    )
    print(f"useful share of the time, at this rate of kills: {summary.useful_share:.1%}")
    for name, holds in found.items():
        print(f"{'ok' if holds else 'FAILED':<7} {name}")
    if all(found.values()):
        shutil.rmtree(out)
    return 0 if all(found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
