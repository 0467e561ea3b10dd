"""What the options of `spacescale ablate` ask for, as a plan."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from spacescale.ablation.arms import SET_APART, read_arms, require_free
from spacescale.ablation.costs import Costed, cost_arms
from spacescale.ablation.plan import Member, Plan, with_null
from spacescale.ablation.runs import Recipe
from spacescale.errors import UserError

FACTORS = (1 / 3, 1, 3)  # of the preset's rate: what is tried where no rate is given


def read_plan(args: argparse.Namespace) -> Plan:
    """The plan of parsed options. Raises UserError naming the option that is wrong."""
    if args.seeds < 1:
        raise UserError(f"--seeds {args.seeds}: expected 1 or more")
    if wrong := [rate for rate in args.lr if not 0 < rate < float("inf")]:
        raise UserError(f"--lr {wrong[0]:g}: expected a rate above 0")
    if not args.deepspeed.is_file():
        raise UserError(
            f"--deepspeed {args.deepspeed}: no such file; give the path of DeepSpeed's JSON"
        )
    taken = SET_APART if args.lr else SET_APART[1:]
    require_free(args.overrides, taken, "for every arm")
    arms = read_arms(args.arms)
    for arm in arms:
        require_free(arm.overrides, taken, f"--arms {arm.name}")
    data = [folder.resolve() for folder in args.data]
    costed = cost_arms(arms, args.preset, args.overrides, data, args.equal)
    members = tuple(
        Member(one, _rates(one, args.lr, args.overrides), tuple(range(args.seeds)))
        for one in costed
    )
    evaluate = ["--both-strands"] * args.both_strands
    evaluate += ["--baseline", args.baseline] if args.baseline else []
    recipe = Recipe(
        args.preset, tuple(data), args.deepspeed.resolve(), tuple(args.overrides), tuple(evaluate)
    )
    return Plan(args.out.resolve(), recipe, with_null(members) if args.null else members)


def _rates(costed: Costed, given: Sequence[float], overrides: Sequence[str]) -> tuple[float, ...]:
    """Those given; else some around the preset's, or that alone which an override sets."""
    if given:
        return tuple(dict.fromkeys(given))
    rate = costed.config.optim.lr
    if any(one.startswith("optim.lr=") for one in (*overrides, *costed.arm.overrides)):
        return (rate,)
    return tuple(float(f"{factor * rate:.3g}") for factor in FACTORS)  # as folders name them
