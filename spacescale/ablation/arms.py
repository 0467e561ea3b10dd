"""What is held against what: arms, named sets of `section.field=value` overrides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from spacescale.errors import UserError
from spacescale.overrides import nearest

# The paper's Table 4, and a question that it leaves open: are gates of single species worth it?
TABLE4: dict[str, tuple[str, ...]] = {
    "full": (),
    "no_decoder": ("model.decoder=none",),
    "mlp_decoder": ("model.decoder=mlp",),
    "dense_encoder": ("model.species_num_experts=0",),
    "dense_no_species": ("model.species_num_experts=0", "model.species_token=false"),
    "shared_gate": ("model.species_gates=shared",),
}
SETS = {"table4": tuple(TABLE4), "moe-dense": ("full", "dense_encoder")}
NULL = "null"  # the first arm again, with other seeds
SET_APART = ("optim.lr", "run.seed")  # by --lr and --seeds
_NAME = re.compile(r"[A-Za-z0-9][\w+-]*")
_NEXT_OVERRIDE = re.compile(r",(?=\w+\.\w+=)")  # a value may hold commas, too


@dataclass(frozen=True)
class Arm:
    """One of the recipes that are compared."""

    name: str
    overrides: tuple[str, ...]


def read_arms(texts: Sequence[str]) -> list[Arm]:
    """Arms of words: names of SETS or TABLE4, or NAME=section.field=value,… of one's own.

    The first is what the others are held against. Raises UserError naming the word that is wrong.
    """
    arms: list[Arm] = []
    for text in texts:
        name, equals, rest = text.partition("=")
        if equals:
            arms.append(_own_arm(name, rest))
        elif name in SETS or name in TABLE4:
            arms += [Arm(member, TABLE4[member]) for member in SETS.get(name, (name,))]
        else:
            known = [*SETS, *TABLE4]
            raise UserError(
                f"--arms {text}{nearest(text, known)}: expected one of {', '.join(known)}, or "
                "NAME=section.field=value,…"
            )
    names = [arm.name for arm in arms]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--arms: {', '.join(twice)} is given twice")
    return arms


def _own_arm(name: str, rest: str) -> Arm:
    if not _NAME.fullmatch(name) or name == NULL:
        raise UserError(f"--arms {name}={rest}: {name!r} cannot be the name of an arm")
    return Arm(name, tuple(_NEXT_OVERRIDE.split(rest)) if rest else ())


def require_free(overrides: Sequence[str], taken: Sequence[str], where: str) -> None:
    """Raise UserError where an override sets what options of the command set."""
    for override in overrides:
        if (field := override.partition("=")[0]) in taken:
            option = {"optim.lr": "--lr", "run.seed": "--seeds"}.get(field, "--equal flops")
            raise UserError(f"{where}: {override} is what {option} sets; leave one of them out")
