"""What `genomics_fm_tiny` learns of yeast: words, leaks of masks, prompts, one vocabulary or two.

    python benchmarks/genomics_fm.py data    --genome sacCer3.2bit --tokenizer FILE --out gfm
    python benchmarks/genomics_fm.py train   --out gfm --seeds 0 1 2    # runs that are not done
    python benchmarks/genomics_fm.py measure --out gfm
    python benchmarks/genomics_fm.py table   --out gfm

All contigs train but chrV, which validates, and chrXVI, which tests. FILE is a published BPE
(`tokenizer.json`), which may have been learnt from any of them; without it one is learnt from what
trains, whose words are others: a loss per token says nothing beside that of another vocabulary.
Each run is one of `spacescale/pretrain.py` in OUT/ARM-SEED, in bf16 where the processor has
instructions for it; a run that was stopped goes on.
`copying` and `spans` hide single 6-mers and spans of 14: what the neighbours of a single one spell
is no secret, so a model that is right about it has learnt nothing. What the encoders are worth on
tasks tells `spacescale suite`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from scripts import ROOT, pretrain, run_script

from spacescale.dataset.loader import open_genomes
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.dataset.token_windows import MaskedRow, RowMaker, scored_rows
from spacescale.evals.token_evaluation import unigram_loss
from spacescale.files import write_json
from spacescale.objectives.token_scores import TokenScore, score_rows
from spacescale.parallel.run_folder import DONE
from spacescale.predict.trained_encoder import TrainedEncoder, load_trained_encoder
from spacescale.tokens.vocabulary import PROMPTS, Name, read_vocabulary

SPECIES, TEST, BATCH = "yeast", "test", 16
TILES = 400  # of the test chromosome, evenly spread, in each vocabulary
LEAK_STEPS = 300
ONE_VOCABULARY = {name: [f'mlm.vocabularies=["{name}"]'] for name in ("bpe", "kmer")}
ARMS = {
    "both": [],
    "bpe": ONE_VOCABULARY["bpe"],
    "kmer": ONE_VOCABULARY["kmer"],
    "copying": [*ONE_VOCABULARY["kmer"], "mlm.kmer_span=1", "mlm.kmer_centre_rate=0.15"],
    "spans": ONE_VOCABULARY["kmer"],
}
OF_LEAKS = ("copying", "spans")
OTHER: dict[Name, Name] = {"bpe": "kmer", "kmer": "bpe"}


def make_data(genome: Path, tokenizer: Path | None, out: Path) -> None:
    """OUT/data/yeast and OUT/vocabulary; says how many words two vocabularies share."""
    run_script(
        "data_prep/genome.py", "--species", SPECIES, "--fasta", genome, "--out", out / "data",
        "--valid-chroms", "chrV", "--test-chroms", "chrXVI",
    )  # fmt: skip
    if tokenizer is None:
        run_script("data_prep/vocabulary.py", "--data", out / "data", "--out", out / "vocabulary")
    else:
        (out / "vocabulary").mkdir(exist_ok=True)
        shutil.copyfile(tokenizer, out / "vocabulary" / "tokenizer.json")
    found = read_vocabulary(out / "vocabulary")
    assert found.bpe is not None
    words = 4**found.kmer
    shared = len(found.bpe.tokens) + len(PROMPTS) + words - len(found)
    print(f"{len(found)} tokens; {shared} of {words} {found.kmer}-mers are words of BPE, too")


def train(args: argparse.Namespace) -> None:
    """Every arm and seed, one after the other; of the leaks one seed and few steps."""
    settings = deepspeed_settings(args.out)
    for seed in args.seeds:
        for arm in args.arms:
            if arm in OF_LEAKS and seed != args.seeds[0]:
                continue
            steps = LEAK_STEPS if arm in OF_LEAKS else args.steps
            every = min(250, steps)
            pretrain(
                args.out / f"{arm}-{seed}", steps,
                "--deepspeed", settings, "--preset", "genomics_fm_tiny",
                "--data", args.out / "data", f"mlm.vocabulary={args.out / 'vocabulary'}",
                f"run.seed={seed}", f"optim.warmup_steps={min(200, steps // 5)}",
                f"run.valid_every={every}", f"run.save_every={every}", *ARMS[arm], *args.overrides,
            )  # fmt: skip


def deepspeed_settings(out: Path) -> Path:
    """OUT/deepspeed.json, one for all runs there are and will be."""
    path = out / "deepspeed.json"
    if not path.exists():
        config = json.loads((ROOT / "ds_configs/zero2_dense.json").read_text())
        fast = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()
        config["torch_autocast"] = {"enabled": fast, "dtype": "bfloat16"}
        write_json(path, config, indent=1)
    return path


def measure_runs(out: Path, arms: list[str]) -> None:
    """measures.json of every run that is done and has none."""
    genome = open_genomes([out / "data"])[SPECIES]
    for run in sorted(path for arm in arms for path in out.glob(f"{arm}-[0-9]*")):
        file = run / "measures.json"
        if not (run / DONE).exists():
            print(f"{run.name}: not trained to its end")
            continue
        if not file.exists():
            write_json(file, measure(load_trained_encoder(run), genome), indent=1)
        print(run.name, file.read_text(), flush=True)


def measure(trained: TrainedEncoder, genome: SpeciesGenome) -> dict[str, dict[str, float]]:
    """Vocabulary → loss (nats per hidden token), accuracy …, on the test chromosome.

    unigram: the loss by how often each word stands in training sequence. other_prompt: that of the
    model told that these are words of the other vocabulary.
    """
    found: dict[str, dict[str, float]] = {}
    for name, maker in trained.makers().items():
        rows = scored_rows(genome, TEST, maker, TILES)
        found[name] = _score(trained, rows, maker).values()
        found[name]["unigram"] = unigram_loss(genome, TEST, maker, TILES)
        if len(trained.vocabulary.names) > 1:
            told = [_under_other_prompt(row, maker) for row in rows]
            found[name]["other_prompt"] = _score(trained, told, maker).loss
            found[name]["rise"] = found[name]["other_prompt"] - found[name]["loss"]
        if trained.mlm.kmer_span == 1:
            del found[name]["bits_per_base"]  # of next to no bases that are secret
    return found


def _score(trained: TrainedEncoder, rows: Iterable[MaskedRow], maker: RowMaker) -> TokenScore:
    return score_rows(trained.model, rows, maker, BATCH, torch.device("cpu"))


def _under_other_prompt(row: MaskedRow, maker: RowMaker) -> MaskedRow:
    ids = maker.vocabulary.ids
    right, wrong = ids[PROMPTS[maker.name]], ids[PROMPTS[OTHER[maker.name]]]
    return row._replace(ids=np.where(row.ids == right, wrong, row.ids))


def table(out: Path) -> list[str]:
    """Means over seeds and their standard deviations."""
    columns = {
        "loss": "nats/token",
        "unigram": "unigram",
        "other_prompt": "other prompt",
        "rise": "so much more",
        "accuracy": "accuracy",
        "bits_per_base": "bits/base",
    }
    lines = [
        "| arm | words | seeds | " + " | ".join(columns.values()) + " |",
        "|---" * (len(columns) + 3) + "|",
    ]
    for arm in ARMS:
        found = [json.loads(f.read_text()) for f in sorted(out.glob(f"{arm}-[0-9]*/measures.json"))]
        for name in found[0] if found else ():
            values = [one[name] for one in found]
            cells = [_cell([one[key] for one in values if key in one]) for key in columns]
            lines.append(f"| {arm} | {name} | {len(values)} | " + " | ".join(cells) + " |")
    return lines


def _cell(values: list[float]) -> str:
    if not values:
        return "–"
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{spread}"


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("data", "train", "measure", "table"))
    parser.add_argument("--out", type=Path, required=True, help="folder of data and runs")
    parser.add_argument("--genome", type=Path, help="sacCer3, FASTA or 2bit")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json of a published BPE")
    parser.add_argument("overrides", nargs="*", help="section.field=value of all arms")
    args = parser.parse_intermixed_args()
    args.out = args.out.resolve()
    if args.action == "data":
        if args.genome is None:
            parser.error("data needs --genome")
        make_data(args.genome.resolve(), args.tokenizer, args.out)
    elif args.action == "train":
        train(args)
    elif args.action == "measure":
        measure_runs(args.out, args.arms)
    else:
        print("\n".join(table(args.out)))


if __name__ == "__main__":
    main()
