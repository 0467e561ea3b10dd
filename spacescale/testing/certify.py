"""The whole of `spacescale selfcheck` once the processes have met: check, speak, certify."""

from __future__ import annotations

import argparse
import platform
import shutil
import socket
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.distributed as dist

from spacescale.errors import UserError
from spacescale.files import make_folder
from spacescale.overrides import build_config
from spacescale.parallel import comm, launcher
from spacescale.parallel.agreement import require_agreement, versions
from spacescale.parallel.watch import Watch
from spacescale.testing.certificate import Certificate
from spacescale.testing.checked_runs import Bench, checked_config, checked_deepspeed_config
from spacescale.testing.selfchecks import all_checks
from spacescale.train.signals import StopRequest


def certify(
    args: argparse.Namespace, device: torch.device, stop: StopRequest, watch: Watch
) -> Certificate:
    """Run all checks and write the certificate. All ranks call it together.

    Raises UserError, on all ranks alike, where there is nothing to check: bad settings, no room.
    """
    started = time.monotonic()
    user = comm.on_all(lambda: build_config(args.preset, args.overrides))
    require_agreement({"--output": str(args.output), "settings": user.model_dump(mode="json")})
    config = comm.on_all(lambda: checked_config(user, comm.world_size()))
    deepspeed = comm.on_all(lambda: checked_deepspeed_config(args.deepspeed, user.data))
    folder = Path(comm.on_main(lambda: _work_folder(args.output)))
    stop.training = True  # from here on a signal ends the run that is under way, and so the check
    try:
        bench = Bench(folder, config, deepspeed, device, stop, watch)
        facts = _circumstances(bench, str(args.deepspeed), [args.preset, *args.overrides])
        said = (facts[name] for name in ("processes", "layout", "precision", "objective"))
        _say(f"selfcheck: {', '.join(said)}")
        checks = []
        for check in all_checks(bench):
            _say(str(check))
            checks.append(check)
    finally:
        if comm.is_main():
            shutil.rmtree(folder, ignore_errors=True)
    facts["time"] += f", {time.monotonic() - started:.0f} s after the processes had met"
    certificate = Certificate(checks, facts)
    as_json = comm.on_main(lambda: str(certificate.write(args.output)))
    _say(f"{certificate.verdict} {args.output}, {as_json}")
    if comm.world_size() == 1:
        _say(
            "This was one process; several: deepspeed spacescale/selfcheck.py …, or torchrun or "
            "srun with -m spacescale.selfcheck"
        )
    return certificate


def _say(text: str) -> None:
    if comm.is_main():
        print(text, flush=True)


def _work_folder(output: Path) -> str:
    """A new folder beside the certificate, for data and runs."""
    if output.suffix != ".md":
        raise UserError(f"--output {output}: must end in .md; the figures go into .json beside it")
    make_folder(output.parent)
    return tempfile.mkdtemp(prefix=f".{output.stem}-", dir=output.parent)


def _circumstances(bench: Bench, deepspeed_json: str, settings: list[str]) -> dict[str, str]:
    """What the certificate is about. All ranks call it together."""
    hosts: list[str] = [socket.gethostname()] * comm.world_size()
    if comm.world_size() > 1:
        dist.all_gather_object(hosts, socket.gethostname())
    by_host = (f"{hosts.count(host)} on {host}" for host in dict.fromkeys(hosts))
    started = launcher.started_by()
    deepspeed = bench.deepspeed
    offload = sorted(key for key in deepspeed["zero_optimization"] if key.startswith("offload"))
    on_gpu = bench.device.type == "cuda"
    return {
        "time": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **versions(),
        "python": f"{platform.python_version()}, {platform.platform()}",
        "processes": f"{comm.world_size()} ({', '.join(by_host)})",
        "launcher": started.launcher if started else _launcher(),
        "device": torch.cuda.get_device_name(bench.device)
        if on_gpu
        else f"CPU, {torch.get_num_threads()} threads per process",
        "layout": f"{bench.layout}{', ' if offload else ''}{', '.join(offload)}",
        "precision": "bf16 (torch_autocast)" if bench.bf16 else "fp32",
        "objective": bench.config.objective,
        "per step": f"{deepspeed['train_micro_batch_size_per_gpu']} windows × "
        f"{deepspeed['gradient_accumulation_steps']} micro-steps × {comm.world_size()} processes",
        "settings": " ".join([deepspeed_json, *settings]),
    }


def _launcher() -> str:
    return "deepspeed or torchrun" if launcher.is_launched() else "none"
