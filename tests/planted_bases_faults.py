"""Mistakes that the tests must notice: of bases that are hidden beside profiles."""

from planted_faults import Fault

MASKS, MASK_TESTS = "spacescale/tokens/base_masking.py", ("tests/tokens/test_base_masking.py",)
WINDOWS, WINDOW_TESTS = (
    "spacescale/dataset/masked_windows.py",
    ("tests/dataset/test_masked_windows.py",),
)
MODEL, MODEL_TESTS = "spacescale/model/hybrid.py", ("tests/model/test_hybrid.py",)
SAMPLER = "spacescale/dataset/sampler.py"
SAMPLER_TESTS = ("tests/dataset/test_sampler.py", "-k", "limit")
RUN_TESTS = ("tests/objectives/test_hybrid_objective.py",)

BASES_FAULTS = {
    "what becomes of a span is drawn base by base": Fault(
        MASKS, "random.random(size)[owner]", "random.random(size)", MASK_TESTS
    ),
    "unknown bases are hidden, too": Fault(
        MASKS, "& hideable & (codes < dna.N)", "& hideable", MASK_TESTS
    ),
    "all species share their masks": Fault(MASKS, "zlib.crc32(species.encode())", "0", MASK_TESTS),
    "held-out bases of the flanks are hidden": Fault(
        WINDOWS, "codes, usable, self.masks.bases", "codes, usable | True, self.masks.bases",
        WINDOW_TESTS,
    ),
    "scored bases are shown now and then": Fault(
        WINDOWS, "hide_bases(codes, usable, unseen,", "hide_bases(codes, usable, bases,",
        WINDOW_TESTS,
    ),
    "masks stay where they were when the window is turned": Fault(
        WINDOWS,
        "hidden.append(one.flipped() if draw.reverse_complement else one)",
        "hidden.append(one)",
        WINDOW_TESTS,
    ),
    "the phase goes by micro-steps": Fault(
        WINDOWS, "micro_step // self.accumulation", "micro_step", WINDOW_TESTS
    ),
    "each rank counts its own masked windows": Fault(
        WINDOWS, "_joined(hidden, on_all_ranks))", "_joined(hidden, len(hidden)))", WINDOW_TESTS
    ),
    "windows without tracks of a species that has none are masked like others": Fault(
        WINDOWS, "else replace(phase, untracked=1.0)", "else phase", WINDOW_TESTS
    ),
    "a limit of species forgets what was read before it": Fault(
        SAMPLER, "numbers += self._before_limit[species]", "pass", SAMPLER_TESTS
    ),
    "nothing rests on the decoder in a pass without tracks": Fault(
        "spacescale/model/space.py",
        "if self.training and not any(name in self.heads for name in present)",
        "if False",
        MODEL_TESTS,
    ),
    "the reverse strand names bases by their complements": Fault(
        "spacescale/predict/predictor.py", "found[:, ::-1] if reverse", "found if reverse",
        ("tests/predict/test_likelihoods.py",),
    ),
    "a species without a turn behind the limit goes unsaid": Fault(
        SAMPLER, "*(self._limited_groups or ())]", "]",
        ("tests/dataset/test_sampler.py", "-k", "any_more"),
    ),
    "the best checkpoint is by bases of what is not validated": Fault(
        "spacescale/objectives/bases_validation.py",
        'if len(windows_to_score(genome, seq_length, "valid")):',
        "if True:",
        ("tests/objectives/test_best_metric.py",),
    ),
    "a model of hidden bases is tuned with their head": Fault(
        "spacescale/tuning/pretrained.py",
        "space_alone(trained.model)",
        "trained.model",
        ("tests/tuning/test_pretrained.py",),
    ),
    "the mask code begins with weights": Fault(
        MODEL, "nn.init.zeros_(self.mask_code.weight)", "pass", MODEL_TESTS
    ),
    "places of all species count from the first window": Fault(
        MODEL, "+ before * length", "+ 0 * length", MODEL_TESTS
    ),
    "masked windows move the statistics that are kept": Fault(
        MODEL, "if row in masked], not any_clean)", "if row in masked], True)", MODEL_TESTS
    ),
    "species share the statistics of their masked windows": Fault(
        MODEL, 'if self.config.batchnorm == "per_species":', "if False:", MODEL_TESTS
    ),
    "more steps lead back to bases alone": Fault(
        "spacescale/bases_config.py", " if known is None else known", "",
        ("tests/test_bases_config.py",),
    ),
    "scores of heads that are not trained yet count": Fault(
        "spacescale/objectives/hybrid.py", "if step < self._first_steps:", "if False:",
        (*RUN_TESTS, "-k", "each_phase"),
    ),
    "a pass without masks moves the head's statistics": Fault(
        MODEL, "self.training and anywhere", "self.training", MODEL_TESTS
    ),
    "the trunk is as fast after bases alone": Fault(
        "spacescale/objectives/hybrid.py", "1 / TRUNK_SLOWER if bases", "1.0 if bases",
        RUN_TESTS,
    ),
    "an export holds what serves training alone": Fault(
        "spacescale/checkpoint/convert.py", "if n in kept}", "}", RUN_TESTS
    ),
    "bases are counted on one strand": Fault(
        "spacescale/evals/masked_bases.py",
        "counts += counts[reverse_complement_ids(length)] + 1",
        "counts += 1",
        ("tests/evals/test_masked_bases.py",),
    ),
}  # fmt: skip
