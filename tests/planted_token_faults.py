"""Mistakes that the tests must notice: of tokens, their masks and their encoder."""

from planted_faults import Fault

MASKING, MASK_TESTS = "spacescale/tokens/masking.py", ("tests/tokens/test_masking.py",)
VOCABULARY, VOCABULARY_TESTS = (
    "spacescale/tokens/vocabulary.py",
    ("tests/tokens/test_vocabulary.py",),
)
WINDOWS, WINDOW_TESTS = (
    "spacescale/dataset/token_windows.py",
    ("tests/dataset/test_token_windows.py",),
)
OBJECTIVE, OBJECTIVE_TESTS = (
    "spacescale/objectives/tokens.py",
    ("tests/objectives/test_tokens.py::test_the_loss_written_out",),
)
ENCODER, ENCODER_TESTS = "spacescale/model/encoder.py", ("tests/model/test_encoder.py",)
NAMES, NAME_TESTS = (
    "spacescale/checkpoint/encoder_names.py",
    ("tests/checkpoint/test_encoder_names.py",),
)
CHOICE, CHOICE_TESTS = (
    "spacescale/tuning/vocabulary_choice.py",
    ("tests/tuning/test_vocabulary_choice.py",),
)
TRUNK, TRUNK_TESTS = (
    "spacescale/tuning/encoder_trunk.py",
    ("tests/tuning/test_encoder_trunk.py::test_what_fills_rows_up_is_not_pooled",),
)

TOKEN_FAULTS = {
    "scored words are shown now and then": Fault(
        WINDOWS, "scoring = maker.for_scores()", "scoring = maker", WINDOW_TESTS
    ),
    "what becomes of a span is drawn token by token": Fault(
        MASKING,
        "if masking.span > 1:",
        "if False:",
        ("tests/tokens/test_masking.py::test_hidden_bases_cannot_be_read_off_the_input",),
    ),
    "specials and prompts are masked, too": Fault(
        MASKING, "np.isin(row, words)", "np.ones(len(row), dtype=bool)", MASK_TESTS
    ),
    "spans lie a token too far to the left": Fault(
        MASKING, "before = (masking.span - 1) // 2", "before = masking.span // 2", MASK_TESTS
    ),
    "a word of both vocabularies has two ids": Fault(
        VOCABULARY, " if word not in known]", "]", VOCABULARY_TESTS
    ),
    "every row has the same prompt": Fault(
        VOCABULARY, "[CLS, PROMPTS[name]]", "[CLS, PROMPTS[self.names[0]]]", VOCABULARY_TESTS
    ),
    "edited vocabularies pass": Fault(
        VOCABULARY, 'found.sha256 == content["sha256"] and', "", VOCABULARY_TESTS
    ),
    "masks of all seeds are the same": Fault(
        WINDOWS, "default_rng([seed, ", "default_rng([0, ", WINDOW_TESTS
    ),
    "masks of all species are the same": Fault(
        WINDOWS, 'f"{species} {name}".encode()', "name.encode()", WINDOW_TESTS
    ),
    "an encoder's proof is passed over": Fault(
        "spacescale/model/encoder_proof.py",
        "if float(difference) <= allowed:",
        "if True:",
        ("tests/hub/test_hub_encoder.py",),
    ),
    "visible tokens hide bases, too": Fault(
        WINDOWS,
        "unread = np.convolve(visible, each) == 0",
        "unread = np.convolve(visible, each) < 99",
        WINDOW_TESTS,
    ),
    "scores take the first sequences alone": Fault(
        "spacescale/dataset/genome_windows.py",
        "place * len(self) // count",
        "place",
        WINDOW_TESTS,
    ),
    "the vocabulary with more tokens weighs more": Fault(
        OBJECTIVE,
        "of_vocabulary.mean(),",
        "lost.sum() / tokens.sum(),",
        OBJECTIVE_TESTS,
    ),
    "losses of species are those of others": Fault(
        OBJECTIVE,
        "species * shape[1] + rows.vocabulary",
        "species + rows.vocabulary * shape[0]",
        OBJECTIVE_TESTS,
    ),
    "words are learnt from held-out bases": Fault(
        "spacescale/prepare/vocabulary.py",
        'genome.stretches("train").intervals()',
        "genome.sequence_table.intervals()",
        ("tests/prepare/test_vocabulary_of_data.py",),
    ),
    "words of a task are learnt from its negatives, too": Fault(
        CHOICE, "np.flatnonzero(targets == 1)", "np.arange(len(targets))", CHOICE_TESTS
    ),
    "what fills rows up is seen by a task's encoder": Fault(
        TRUNK, "rows != self.vocabulary.pad_id", "rows >= 0", TRUNK_TESTS
    ),
    "[CLS], prompt and [SEP] are pooled with the words": Fault(
        TRUNK, "(CLS, SEP, PAD, *PROMPTS.values())", "(PAD,)", TRUNK_TESTS
    ),
    "ALiBi looks at one side": Fault(
        ENCODER,
        "(place[:n, None] - place).abs()",
        "(place[:n, None] - place).relu()",
        ENCODER_TESTS,
    ),
    "what fills rows up is attended to": Fault(
        ENCODER,
        "F.pad(attended, (0, padding))",
        "F.pad(attended | True, (0, padding))",
        ENCODER_TESTS,
    ),
    "attention is never dropped out": Fault(
        ENCODER, "dropout_p=self.dropout if self.training else 0.0", "dropout_p=0.0", ENCODER_TESTS
    ),
    "feed-forwards are never dropped out": Fault(
        ENCODER, "self.dropout(F.gelu(gate) * value)", "F.gelu(gate) * value", ENCODER_TESTS
    ),
    "gate and value are exchanged": Fault(
        ENCODER, "gate, value = self.gated", "value, gate = self.gated", ENCODER_TESTS
    ),
    "the head teaches the embeddings nothing": Fault(
        ENCODER,
        "self.dense(x))), words, self.bias",
        "self.dense(x))), words.detach(), self.bias",
        ENCODER_TESTS,
    ),
    "which other bases may train goes unnoticed": Fault(
        "spacescale/dataset/species_genome.py",
        'if "+" in one and "+" in other:',
        "if False:",
        ("tests/dataset/test_species_genome.py",),
    ),
    "a decoder of its own is dropped": Fault(
        NAMES, "if tied is not None and not", "if False and not", NAME_TESTS
    ),
}
