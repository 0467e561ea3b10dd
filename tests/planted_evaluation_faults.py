"""Faults of scores, of what they are held against, and of comparisons between runs.

As `planted_faults.py`, which has those of training.
"""

from planted_faults import Fault

LINEAR = "spacescale/evals/linear_baselines.py"
ARM_DIFFERENCES = "spacescale/ablation/compare.py"

EVALUATION_FAULTS = {
    "the flanks of a bin are exchanged": Fault(
        LINEAR,
        "[own, beside[: len(own)], beside[flank + 1 :][: len(own)]]",
        "[own, beside[flank + 1 :][: len(own)], beside[: len(own)]]",
        ("tests/evals/test_linear_baselines.py",),
    ),
    "the worst penalty is taken": Fault(
        LINEAR, "found > best", "found < best", ("tests/evals/test_linear_baselines.py",)
    ),
    "a model and its rival are drawn apart": Fault(
        "spacescale/evals/intervals.py",
        "DRAWS, np.random.default_rng(SEED)",
        "DRAWS, np.random.default_rng()",
        ("tests/evals/test_block_scores.py",),
    ),
    "genes are held against the other strand": Fault(
        "spacescale/evals/genes.py",
        "forward >= forward[pair]",
        "forward < forward[pair]",
        ("tests/evals/test_genes.py",),
    ),
    "a method without a seed is given the seeds of the others": Fault(
        "spacescale/tasks/seeds.py",
        "else several * single_has_seed for",
        "else several for",
        ("tests/tasks/test_seed_draws.py",),
    ),
    "few seeds pass for many": Fault(
        "spacescale/tasks/seeds.py",
        "+ scale * np.take_along_axis(",
        "+ np.take_along_axis(",
        ("tests/tasks/test_seed_draws.py",),
    ),
    "one method's seeds stand for another's": Fault(
        "spacescale/tasks/seeds.py",
        "own = _off_mean(scores[place]) if",
        "own = _off_mean(scores[0]) if",
        ("tests/tasks/test_seed_draws.py",),
    ),
    "each arm has blocks of its own": Fault(
        ARM_DIFFERENCES,
        "drawn = _drawn(arm, rows, blocks)\n",
        "drawn = _drawn(arm, rows, {n: block_draws(of.blocks, draws, random)"
        " for n, of in species.items()})\n",
        ("tests/ablation/test_arm_differences.py",),
    ),
    "equal work is turned round": Fault(
        "spacescale/ablation/costs.py",
        "found[0].step_flops / costed.step_flops",
        "costed.step_flops / found[0].step_flops",
        ("tests/ablation/test_arm_costs.py",),
    ),
    "predictions of log1p are scored as they are": Fault(
        "spacescale/metrics/track_scale.py",
        'prediction.expm1() if self.name == "log1p"',
        'prediction if self.name == "log1p"',
        ("tests/metrics/test_track_scale.py",),
    ),
}
