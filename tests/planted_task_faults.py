"""Mistakes that the tests must notice: of tasks, and of what training has seen of them."""

from planted_faults import Fault

PLACES, CUT = "spacescale/tasks/genome_places.py", "spacescale/tasks/validation_cut.py"
DUPLICATES, WORDS = "spacescale/tasks/duplicates.py", "spacescale/tasks/target_words.py"
LAYOUTS, CUTS = "tests/tasks/test_task_layouts.py", "tests/tasks/test_validation_cut.py"
COPIES = "tests/tasks/test_duplicates.py"
RESAMPLING, TASK_CNN = "spacescale/tasks/resampling.py", "spacescale/tasks/cnn.py"
RESAMPLING_TESTS = "tests/tasks/test_resampling.py"
TASK_CNN_TESTS = "tests/tasks/test_sequence_cnn.py"
SEEN, SEARCH = "spacescale/contamination/seen.py", "spacescale/contamination/search.py"
ARCHIVE, ARCHIVE_TESTS = "spacescale/tasks/archive_files.py", "tests/tasks/test_archive_files.py"
LOCI, LOCI_TESTS = "spacescale/tasks/loci.py", "tests/tasks/test_loci.py"
FEEDING = "spacescale/probing/feeding.py"
FEATURES, FEATURE_TESTS = "spacescale/probing/features.py", "tests/probing/test_features.py"
HEAD_TESTS = "tests/probing/test_heads.py"
EXPLAINING = "spacescale/probing/attribution.py"
EXPLAINING_TESTS = "tests/probing/test_probe_attribution.py"
FRACTIONS = "spacescale/tuning/fractions.py"
NEW_SPECIES = "tests/tuning/test_new_species.py"
DRAWN = (
    "tests/tuning/test_fractions.py"
    "::test_smaller_shares_are_contained_in_larger_ones_with_all_classes"
)

TASK_FAULTS = {
    "places of the minus strand are read as plus": Fault(
        PLACES, 'reverse_complement(bases) if strand == "-" else bases', "bases", (LAYOUTS,)
    ),
    "validation tears chains of groups": Fault(CUT, "while True:", "for _ in range(1):", (CUTS,)),
    "a class may be left without a training sequence": Fault(
        CUT, "min(round(share * total), total - 1)", "round(share * total)", (CUTS,)
    ),
    "classes are not cut in their shares": Fault(
        CUT, 'if kind == "classes" else', "if False else", (CUTS,)
    ),
    "copies are looked for in train alone": Fault(
        DUPLICATES, 'if split != "test"', 'if split == "train"', (COPIES,)
    ),
    "an unknown label contradicts a known one": Fault(
        DUPLICATES, " & ~np.isnan(column)", "", (COPIES,)
    ),
    "classes of words are numbered as they come": Fault(
        WORDS,
        "tuple(sorted(set().union(*words.values())))",
        'tuple(dict.fromkeys(words["train"]))',
        ("tests/tasks/test_task_targets.py",),
    ),
    # --- scores and baselines of tasks
    "ties count as pairs in order": Fault(
        RESAMPLING, "zeros.cumsum(1) - zeros / 2", "zeros.cumsum(1)", (RESAMPLING_TESTS,)
    ),
    "sequences of a group are drawn apart": Fault(
        RESAMPLING, "counts[:, members]", "counts[:, np.arange(size) % units]", (RESAMPLING_TESTS,)
    ),
    "outputs of which nothing is said are left out": Fault(
        "spacescale/tasks/scores.py",
        "0.0 if nothing_said else",
        "np.nan if nothing_said else",
        ("tests/tasks/test_task_scores.py",),
    ),
    "words reach from one sequence into the next": Fault(
        "spacescale/tasks/simple_baselines.py",
        "np.append(codes, np.uint8(dna.N))",
        "np.append(codes, np.uint8(dna.A))",
        ("tests/tasks/test_simple_baselines.py",),
    ),
    "padding enters the moments of BatchNorm": Fault(
        TASK_CNN,
        "if bool((lengths == x.shape[-1]).all()):",
        "if self.training:",
        (TASK_CNN_TESTS,),
    ),
    "the last epoch is kept, not the best": Fault(
        TASK_CNN, "if score > best_score:", "if True:", (TASK_CNN_TESTS,)
    ),
    "values are learnt in their own units": Fault(
        TASK_CNN, "(given - self.mean) / self.deviation", "given", (TASK_CNN_TESTS,)
    ),
    # --- shares of the training labels
    "each share of the labels is drawn anew": Fault(
        FRACTIONS, "default_rng(seed)", "default_rng([seed, int(fraction)])", (DRAWN,)
    ),
    "shares are drawn from all classes together": Fault(
        FRACTIONS,
        "[order[of_drawn == number] for number in np.unique(of_drawn)]",
        "[order]",
        (DRAWN,),
    ),
    "rows of a share take the place of those of all labels": Fault(
        "spacescale/tuning/rows.py",
        '"" if fraction == WHOLE else',
        '"" if fraction else',
        ("tests/tuning/test_fractions.py::test_rows_of_shares_stand_beside_those_of_the_whole",),
    ),
    # --- fine-tuning
    "decay moves the gates of other species": Fault(
        "spacescale/tuning/fit.py",
        "deepspeed_config, model.taught)",
        "deepspeed_config)",
        (f"{NEW_SPECIES}::test_its_token_and_gates_learn_beside_adapters_and_are_kept",),
    ),
    "a new species stays as it began beside adapters": Fault(
        "spacescale/tuning/sequence_model.py",
        'trunk.taught if mode != "head" else',
        "frozenset() if mode else",
        (f"{NEW_SPECIES}::test_only_its_own_rows_count_as_trained",),
    ),
    "a new species learns as slowly as what was pretrained": Fault(
        "spacescale/tuning/fit.py",
        "**dict.fromkeys(model.taught, of_species),",
        "",
        (NEW_SPECIES, "-k", "rate_of_their_own"),
    ),
    "the last pattern that fits says which species": Fault(
        "spacescale/tuning/words_by_task.py",
        "for pattern, word in patterns if",
        "for pattern, word in patterns[::-1] if",
        ("tests/tuning/test_suite_species.py", "-k", "first_pattern"),
    ),
    "p is corrected for the tasks of the last command alone": Fault(
        "spacescale/tuning/suite.py",
        "self.results | self.others.tables(run.names, plan.fractions)",
        "self.results",
        ("tests/tuning/test_kept_tables.py", "-k", "some_tasks"),
    ),
    "a task whose controls are half made counts as finished": Fault(
        "spacescale/tuning/kept_tables.py",
        'len(rows) == 1 and "seed" not in rows[0].settings',
        "len(rows) == 1",
        ("tests/tuning/test_kept_tables.py", "-k", "not_finished"),
    ),
    "what lies behind the layer is handed to the optimiser": Fault(
        "spacescale/tuning/space_trunk.py",
        "return (*later, *token, *PREDICTING)",
        "return PREDICTING",
        ("tests/tuning/test_sequence_model.py",),
    ),
    "an epoch has the steps of one GPU's share": Fault(
        "spacescale/tuning/cost.py",
        "steps_of_epoch(sequences, cost.batch,",
        "steps_of_epoch(sequences, cost.sequences,",
        ("tests/tuning/test_cost.py",),
    ),
    "a task goes on though another process has ended": Fault(
        "spacescale/tuning/suite.py",
        "except comm.OtherRankEnds:",
        "except MemoryError:",
        ("tests/tuning/test_suite_failures.py",),
    ),
    "the statistics of long sequences are of the first ones": Fault(
        "spacescale/tuning/starts.py",
        "torch.linspace(0, len(found) - 1, fitting).long()",
        "torch.arange(fitting)",
        ("tests/tuning/test_starts.py",),
    ),
    "a remark of one seed reads as that of all": Fault(
        "spacescale/tuning/table.py",
        "len(seeds) == of or",
        "seeds or",
        ("tests/tuning/test_table.py",),
    ),
    # --- what training has seen of a benchmark
    "a window too many was drawn in an unfinished epoch": Fault(
        "spacescale/dataset/sampler.py",
        "epochs)[:rest]] += 1",
        "epochs)[: rest + 1]] += 1",
        ("tests/dataset/test_sampler.py::test_times_drawn_counts_the_draws",),
    ),
    "windows that were not read yet count as seen": Fault(
        SEEN,
        "rows[self._times_of_rows[rows] > 0]",
        "rows[self._times_of_rows[rows] >= 0]",
        ("tests/contamination/test_seen.py",),
    ),
    "the order of windows follows that of --data": Fault(
        SEEN, "places.get(item[0], 0)", "0", ("tests/contamination/test_seen.py",)
    ),
    "other data are taken for those of the run": Fault(
        "spacescale/contamination/gaps.py",
        "same_splits(split, data.splits_identity(of_bases=False))",
        "True",
        ("tests/contamination/test_seen.py",),
    ),
    "what was not searched counts as not seen": Fault(
        "spacescale/tuning/seen.py",
        "[] if verdicts.not_searched else unseen",
        "unseen",
        ("tests/tuning/test_seen_reports.py",),
    ),
    "weights forget what they began with when they are resumed": Fault(
        "spacescale/checkpoint/manager.py",
        "self.beginning = layout.beginning(state)",
        "pass",
        ("tests/commands/test_init.py",),
    ),
    "sequences are searched on one strand": Fault(
        SEARCH,
        "map(dna.reverse_complement, pieces)",
        "map(np.flip, pieces)",
        ("tests/contamination/test_search.py",),
    ),
    "a place that many are like hides the exact one": Fault(
        SEARCH,
        'np.lexsort([-found["score"], found["kind"], found["piece"]])',
        'np.lexsort([found["kind"], found["piece"]])',
        ("tests/contamination/test_search.py",),
    ),
    "N is the same as N": Fault(
        "spacescale/contamination/alignment.py",
        "steps[_either_unknown(first, second)] = 0",
        "",
        ("tests/contamination/test_alignment.py",),
    ),
    "N in a copy is a difference": Fault(
        "spacescale/contamination/alignment.py",
        "_UNKNOWN * (cells >= _ANY_SCORE)",
        "_MISMATCH",
        ("tests/contamination/test_report.py",),
    ),
    "what was seen in part counts as not seen": Fault(
        "spacescale/tuning/seen.py",
        "told_apart = (*SEEN, *NEITHER)",
        "told_apart = (*SEEN, UNKNOWN, VALIDATION)",
        ("tests/tuning/test_seen_reports.py",),
    ),
    "any aligned part of a sequence is enough": Fault(
        "spacescale/contamination/verdicts.py",
        "and hit.aligned_bp >= limits.cover * known_bp",
        "",
        ("tests/contamination/test_report.py",),
    ),
    # --- probing
    "shuffles end elsewhere": Fault(
        "spacescale/genome/shuffles.py",
        "if all(_arrives(base, end, steps) for base in steps):",
        "if True:",
        ("tests/genome/test_shuffles.py",),
    ),
    "a place of the minus strand is shown on plus": Fault(
        FEEDING,
        "dna.reverse_complement(shown) if locus.minus else shown",
        "shown",
        (FEATURE_TESTS,),
    ),
    "what is before a sequence of the minus strand is behind it": Fault(
        FEEDING, "locus.end + first - self.window", "locus.start - first", (FEATURE_TESTS,)
    ),
    "rows of every split have the places of train": Fault(
        FEATURES, "trunk = trunk.of_split(examples)", "", (FEATURE_TESTS,)
    ),
    "any bases may lie at a place": Fault(LOCI, "(there != codes)", "(there > 9)", (LOCI_TESTS,)),
    "places get lost where validation is cut off": Fault(
        "spacescale/tasks/task.py",
        "tuple(self.loci[row] for row in chosen) if self.loci else ()",
        "()",
        (LOCI_TESTS,),
    ),
    "labels of bases are taken for labels of sequences": Fault(
        PLACES,
        "if binned or number == longest:",
        "if False:",
        ("tests/tasks/test_task_refusals.py",),
    ),
    "kept features are those of the plus strand": Fault(
        "spacescale/tuning/batches.py",
        "self.features[flip][row]",
        "self.features[False][row]",
        ("tests/tuning/test_tuning_batches.py",),
    ),
    "a frozen trunk is run in every epoch": Fault(
        "spacescale/tuning/fit.py",
        "if not settings.features_stay:",
        "if True:",
        ("tests/tuning/test_fit.py::test_a_frozen_trunk_is_run_once_and_gives_the_same_head",),
    ),
    "a head that learnt nothing is not flagged": Fault(
        "spacescale/probing/run.py",
        "if best is None or best > 1:",
        "if True:",
        ("tests/probing/test_probe.py",),
    ),
    "flanks are the same for every row": Fault(
        FEEDING,
        "[self.seed, draw, row]",
        "[self.seed, draw]",
        (FEATURE_TESTS,),
    ),
    "features are taken from the start of the window": Fault(
        FEATURES, "first = self.feeder.first(length) // width", "first = 0", (FEATURE_TESTS,)
    ),
    "positions of padding count in means": Fault(
        FEATURES, "held.sum(1, keepdims=True)", "held.shape[1]", (FEATURE_TESTS,)
    ),
    "the last weights are kept, not the best": Fault(
        "spacescale/probing/fit.py", "if found < lowest:", "if True:", (HEAD_TESTS,)
    ),
    "both sides of an exon share a tower": Fault(
        "spacescale/probing/heads.py",
        "self.left(left), self.right(right)",
        "self.right(left), self.right(right)",
        (HEAD_TESTS,),
    ),
    "fresh weights are the same for every seed": Fault(
        "spacescale/probing/run.py",
        "self._run_source(source, seed, (seed,))",
        "self._run_source(source, 0, (seed,))",
        ("tests/probing/test_probe.py",),
    ),
    "the first line is the best on test": Fault(
        "spacescale/probing/run.py",
        'row.settings["valid"] for row',
        "row.scores[row.metric] for row",
        ("tests/probing/test_probe.py",),
    ),
    "mutations are of the wrong sign": Fault(
        EXPLAINING, "-changes.sum(0) / 3", "changes.sum(0) / 3", (EXPLAINING_TESTS,)
    ),
    "constant maps agree with everything": Fault(
        EXPLAINING, "if size > 0 else np.nan", "if size > 0 else 1.0", (EXPLAINING_TESTS,)
    ),
    "adapters hide the other orientation of an element": Fault(
        ARCHIVE, "one[starts.size : len(one) - ends.size]", "one", (ARCHIVE_TESTS,)
    ),
    "splicing is tested on exons that never change": Fault(
        ARCHIVE,
        "np.where(known, change, 0).max(1) >= LEAST_CHANGE",
        "known.any(1)",
        (ARCHIVE_TESTS,),
    ),
    "BEND's features are one position late": Fault(
        "spacescale/predict/bend_files.py",
        "features.repeat(width, axis=0)[:length]",
        "features.repeat(width, axis=0)[-length:]",
        ("tests/predict/test_bend_files.py",),
    ),
}
