"""Do hidden bases beside profiles pay on yeast? Seven arms, and what is measured of them.

    python benchmarks/hybrid_yeast.py data  --raw yeast --out hybrid      # a data set
    python benchmarks/hybrid_yeast.py train --out hybrid --seeds 0 1 2    # arms that are not done
    python benchmarks/hybrid_yeast.py measure --raw yeast --dream demo_train.txt \
        --histones GUE/EMP --out hybrid
    python benchmarks/hybrid_yeast.py table --out hybrid

`yeast` is the folder of docs/yeast.md, with `tracks/`, `genome/`, `targets.txt`, and beside these
`peaks/Reb1_CX.bed`, `annotation/TSSs.bed` and `genome/sacCer3.chrom.sizes`. Profiles train on II
and IV, bases on all chromosomes but XVI and the end of IV, which validate and test; DREAM_TXT holds
random promoters and their expression (github.com/de-Boer-Lab/random-promoter-dream-challenge-2022),
GUE/EMP the sequences of yeast's histone marks (histone_probe.py).

Each arm is a run of `spacescale/pretrain.py` in OUT/ARM-SEED; a run that was stopped goes on.
`table` prints means over seeds and their standard deviations, of promoters also the 95 % interval
over these (means of the seeds' ends, in brackets); whether Pearson is within 0.01 of that of
profiles, and single hidden bases are told better than by counts; and the decision, of three seeds
at least: the arm stays if its Pearson is at most 0.005 below that of profiles, and the area for
Reb1 sites or the partial correlation on promoters is above that of profiles (who knows no hidden
bases is at chance in the former) and of the shuffled control, each by more than two standard
deviations.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from hybrid_measures import INTERVALS, MEASURES, NAMES, measure
from scripts import ROOT, pretrain, run_script

from spacescale.files import write_json
from spacescale.parallel.run_folder import DONE

HYBRID = ["objective=profiles+bases", "bases.untracked=0.25"]
ARMS = {
    "profiles": [],
    "profiles_longer": [],  # as many more steps as --longer says
    "first": [*HYBRID, "bases.schedule=first"],
    "first+joint": [*HYBRID, "bases.schedule=first+joint"],
    "joint": [*HYBRID, "bases.schedule=joint"],
    "joint_shuffled": [*HYBRID, "bases.schedule=joint", "bases.shuffle_labels=true"],
    "joint_zero_code": [*HYBRID, "bases.schedule=joint", "bases.code=zero"],
}
PLAIN, CONTROL, LONGER = "profiles", "joint_shuffled", "profiles_longer"
MOST_LOST, SDS, SEEDS = 0.005, 2.0, 3
ALIKE = 0.01  # of Pearson
NEEDED = {
    "data": ("genome/sacCer3.2bit", "genome/sacCer3.chrom.sizes", "targets.txt"),
    "measure": ("peaks/Reb1_CX.bed", "annotation/TSSs.bed"),
}  # files of the yeast's folder
CHANCE = 0.5  # area under a ROC curve


def make_data(raw: Path, out: Path) -> None:
    """OUT/data/yeast: windows on II and IV, the whole genome stored."""
    out.mkdir(parents=True, exist_ok=True)
    lines = (ROOT / "docs/examples/yeast/contigs.bed").read_text().splitlines()
    named = {line.split()[0] for line in lines} | {"chrM"}
    for line in (raw / "genome/sacCer3.chrom.sizes").read_text().splitlines():
        name, length = line.split()
        lines += [] if name in named else [f"{name}\t0\t{length}\ttrain"]
    bed = out / "contigs.bed"
    bed.write_text("\n".join(lines) + "\n")
    run_script(
        "data_prep/shard.py", "--species", "yeast", "--fasta", raw / "genome/sacCer3.2bit",
        "--targets", raw / "targets.txt", "--contigs", bed, "--aliases", "auto",
        "--stride", 3584, "--whole-genome", "--out", out / "data",
    )  # fmt: skip


def steps_of(arm: str, args: argparse.Namespace) -> int:
    """How many steps an arm takes."""
    return round(args.steps * (args.longer if arm == LONGER else 1))


def train(args: argparse.Namespace) -> None:
    """Every arm and seed, one after the other."""
    for seed in args.seeds:
        for arm in args.arms:
            steps = steps_of(arm, args)
            every = min(args.valid_every, steps)
            pretrain(
                args.out / f"{arm}-{seed}", steps,
                "--deepspeed", "ds_configs/zero2_moe.json", "--preset", "space_tiny",
                "--data", args.out / "data/yeast", *(args.relatives if ARMS[arm] else []),
                f"run.seed={seed}",
                f"optim.warmup_steps={min(100, steps // 10)}",
                "data.global_batch_size=4", "data.micro_batch_size=4",
                f"run.valid_every={every}", f"run.save_every={every}", *ARMS[arm], *args.overrides,
            )  # fmt: skip


def measure_runs(args: argparse.Namespace) -> None:
    """measures.json of every run that is done, and has none of these settings, or not all."""
    settings = {name: getattr(args, name) for name in ("sites", "promoters", "reporters")}
    for arm in args.arms:
        for seed in args.seeds:
            run = args.out / f"{arm}-{seed}"
            file = run / "measures.json"
            found = json.loads(file.read_text()) if file.exists() else {}
            if found.get("settings") != settings:
                found = {"settings": settings, "steps": steps_of(arm, args), "measured": []}
            missing = [name for name in args.only if name not in found["measured"]]
            if not (run / DONE).exists():
                print(f"{run.name}: not trained to its end")
                continue
            if missing:
                found |= measure(run, args, missing)
                found["measured"] += missing
                write_json(file, found, indent=1)
            print(run.name, found, flush=True)


def table(out: Path) -> str:
    """Means and standard deviations over seeds, and what the rule says of each arm.

    Raises SystemExit where arms are of other seeds or steps.
    """
    of_arm = {arm: found for arm in ARMS if (found := _measured(out, arm))}
    for what in ("seed", "steps"):
        values = {arm: tuple(found[what]) for arm, found in of_arm.items() if arm != LONGER}
        if len(set(values.values())) > 1:
            raise SystemExit(f"error: {out}: {what} differ: {values}")
    lines = [
        "| arm | seeds | " + " | ".join(NAMES.values()) + " |",
        "|---" * (len(NAMES) + 2) + "|",
    ]
    for arm, values in of_arm.items():
        cells = [_cell(values, name) for name in NAMES]
        lines.append(f"| {arm} | {len(values['seed'])} | " + " | ".join(cells) + " |")
    for arm in of_arm:
        if arm not in (PLAIN, CONTROL):
            lines.append(f"{arm}: {decision(of_arm, arm)}; {remarks(of_arm, arm)}")
    return "\n".join(lines)


def _measured(out: Path, arm: str) -> dict[str, np.ndarray]:
    """What was measured of an arm, seed by seed; NaN is what was not."""
    files = out.glob(f"{arm}-[0-9]*/measures.json")
    found = sorted((int(f.parent.name.rpartition("-")[2]), f.read_text()) for f in files)
    if not found:
        return {}
    runs = [json.loads(text) | {"seed": seed} for seed, text in found]
    names = ("seed", "steps", *NAMES, *(end for both in INTERVALS.values() for end in both))
    return {n: np.array([run.get(n, np.nan) for run in runs], dtype=float) for n in names}


def _cell(values: dict[str, np.ndarray], name: str) -> str:
    known = values[name][~np.isnan(values[name])]
    if not len(known):
        return "–"
    spread = f" ± {known.std(ddof=1):.4f}" if len(known) > 1 else ""
    ends = [f"{values[end].mean():.4f}" for end in INTERVALS.get(name, ())]
    return f"{known.mean():.4f}{spread}" + (f" [{', '.join(ends)}]" if ends else "")


def decision(of_arm: dict[str, dict[str, np.ndarray]], arm: str) -> str:
    """What the rule says of an arm, or why it says nothing."""
    needed = (PLAIN, CONTROL, arm)
    if any(len(of_arm.get(name, {}).get("seed", ())) < SEEDS for name in needed):
        return f"not decided: it needs {SEEDS} seeds at least of {', '.join(needed)}"
    better = []
    for name in ("pearson", "reb1_auroc", "dream_partial"):
        values = {one: of_arm[one][name] for one in needed}
        if name == "reb1_auroc":
            values[PLAIN] = np.full(SEEDS, CHANCE)  # without a head for bases
            if np.isnan(values[arm]).all():
                continue  # an arm that forgot its hidden bases
        for one, measured in values.items():
            if np.isnan(measured).any():
                return f"not decided: {NAMES[name]} of {one} is not measured"
        above = all(_above(values[arm], values[rival]) for rival in (PLAIN, CONTROL))
        if above and name != "pearson":
            better.append(NAMES[name])
    lost = float(of_arm[PLAIN]["pearson"].mean() - of_arm[arm]["pearson"].mean())
    kept = "stays" if lost <= MOST_LOST and better else "goes"
    return f"{kept}: Pearson {-lost:+.4f}; better: {', '.join(better) or 'nothing'}"


def remarks(of_arm: dict[str, dict[str, np.ndarray]], arm: str) -> str:
    """What else is asked: Pearson like that of profiles, and bases told better than by counts.

    Counts see all neighbours of a base: only bases hidden one by one, and few, are asked of both
    with as much to go by.
    """
    mine, plain = of_arm[arm], of_arm.get(PLAIN)
    said = []
    if plain is not None:
        alike = abs(mine["pearson"].mean() - plain["pearson"].mean()) <= ALIKE
        said.append(f"Pearson {'within' if alike else 'not within'} {ALIKE} of {PLAIN}")
    if not np.isnan(mine["lone_perplexity"]).any():
        below = mine["lone_perplexity"].mean() < mine["lone_counts"].mean()
        said.append(f"lone bases told {'better' if below else 'no better'} than by counts")
    return "; ".join(said)


def _above(mine: np.ndarray, rival: np.ndarray) -> bool:
    return mine.mean() - rival.mean() > SDS * max(mine.std(ddof=1), rival.std(ddof=1))


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("data", "train", "measure", "table"))
    parser.add_argument("--out", type=Path, required=True, help="folder of data and runs")
    parser.add_argument("--raw", type=Path, help="folder of yeast's files")
    parser.add_argument("--dream", type=Path, help="promoters: sequence, tab, expression")
    parser.add_argument("--histones", type=Path, help="GUE's EMP, with H3, H4, H3K4me3, H3K9ac")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--longer", type=float, default=1.3, help="of profiles_longer, × steps")
    parser.add_argument("--valid-every", type=int, default=300)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    of_relatives = "folders of genome.py: bases that all arms but those of profiles learn, too"
    parser.add_argument("--relatives", nargs="+", type=Path, default=[], help=of_relatives)
    parser.add_argument("--sites", type=int, default=0, help="at most so many Reb1 sites; 0: all")
    parser.add_argument("--promoters", type=int, default=2000, help="so many of DREAM's; 0: all")
    parser.add_argument("--reporters", type=int, default=20, help="genes they are put before")
    parser.add_argument("overrides", nargs="*", help="section.field=value of all arms")
    args = parser.parse_intermixed_args()
    args.out = args.out.resolve()
    if args.action in ("data", "measure") and args.raw is None:
        parser.error(f"{args.action} needs --raw")
    for name in ("dream", "histones"):
        if args.action == "measure" and name in args.only and getattr(args, name) is None:
            parser.error(f"measure needs --{name}, or --only without {name}")
    for needed in NEEDED.get(args.action, ()):
        if not (args.raw / needed).is_file():
            parser.error(f"{args.action} needs {args.raw / needed}")
    if args.action == "data":
        make_data(args.raw.resolve(), args.out)
    elif args.action == "train":
        train(args)
    elif args.action == "measure":
        measure_runs(args)
    else:
        print(table(args.out))


if __name__ == "__main__":
    main()
