"""Mistakes that the tests must notice, of tasks with a label per sequence."""

from planted_faults import Fault

PLACES, CUT = "spacescale/tasks/genome_places.py", "spacescale/tasks/validation_cut.py"
DUPLICATES, WORDS = "spacescale/tasks/duplicates.py", "spacescale/tasks/target_words.py"
LAYOUTS, CUTS = "tests/tasks/test_task_layouts.py", "tests/tasks/test_validation_cut.py"
COPIES = "tests/tasks/test_duplicates.py"

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
}
