"""All ranks compare what they are about to run; a disagreement ends the run before its first step.

Ranks started with another command, other data or other code would train without a word, on
gradients that do not belong together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist

import spacescale
from spacescale.errors import UserError
from spacescale.files import files_below
from spacescale.parallel import comm

MAX_LENGTH = 60  # characters of a value
MAX_NAMED = 3  # disagreements spelled out


def require_agreement(facts: Mapping[str, Any]) -> None:
    """Raise UserError, on all ranks alike, naming what differs between them, where, and how.

    `facts` are this rank's: name → plain value or mapping of such; the code's versions are added.
    """
    mine = {name: _shorten(value) for name, value in _flatten({**facts, "version": versions()})}
    of_rank: list[dict[str, str]] = [mine] * comm.world_size()
    if len(of_rank) > 1:
        dist.all_gather_object(of_rank, mine)
    differing = [text for name in _names(of_rank) if (text := _compare(name, of_rank))]
    if differing:
        more = f"; and {len(differing) - MAX_NAMED} more" if len(differing) > MAX_NAMED else ""
        raise UserError(
            f"the ranks disagree on {'; '.join(differing[:MAX_NAMED])}{more}. Start all of them "
            "with the same command, data and code"
        )


def _names(of_rank: list[dict[str, str]]) -> list[str]:
    return list(dict.fromkeys(name for facts in of_rank for name in facts))


def _compare(name: str, of_rank: list[dict[str, str]]) -> str | None:
    """'run.seed (0 on rank 0, 5 on ranks 1, 2)', or None where all ranks say the same."""
    ranks: dict[str, list[str]] = {}
    for rank, facts in enumerate(of_rank):
        ranks.setdefault(facts.get(name, "nothing"), []).append(str(rank))
    if len(ranks) == 1:
        return None
    shown = (
        f"{value} on rank{'s' * (len(who) > 1)} {', '.join(who)}" for value, who in ranks.items()
    )
    return f"{name} ({', '.join(shown)})"


def _flatten(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            found += _flatten(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found


def _shorten(value: Any) -> str:
    """The value as JSON; a long one cut off, with its hash to tell it from others."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if len(text) <= MAX_LENGTH:
        return text
    return f"{text[: MAX_LENGTH // 2]}… (sha256 {hashlib.sha256(text.encode()).hexdigest()[:12]})"


def versions() -> dict[str, str]:
    """Version of this code, with a hash of its source, and of what trains with it."""
    return {
        "spacescale": f"{spacescale.__version__}, source {_source_hash()[:12]}",
        "torch": torch.__version__,
        "deepspeed": deepspeed.__version__,
    }


def _source_hash() -> str:
    """SHA-256 over the package's source files and their names."""
    root = Path(spacescale.__file__).parent
    found = hashlib.sha256()
    for path in (p for p in files_below(root) if p.suffix == ".py"):
        found.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return found.hexdigest()
