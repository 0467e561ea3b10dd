"""Mistakes that the tests must notice, each a change of a line or two; `test_planted_faults.py`.

Of data, model and training; `planted_evaluation_faults.py` has those of scores,
`planted_hub_faults.py` those of weights that go on from there.

The list is of what was worth catching once: add the mistake when a test is written against it. A
fault stands by the narrowest tests that see it, so that all of them run in minutes.
"""

from dataclasses import dataclass

ATTENTION, LAYERS = "spacescale/model/attention.py", "spacescale/model/layers.py"
ROUTER, MOE, EXPERTS = (f"spacescale/model/{name}.py" for name in ("router", "moe", "experts"))
DECODER, SPACE, LOSSES = (f"spacescale/model/{name}.py" for name in ("decoder", "space", "losses"))
EXPERT_PARALLEL = "spacescale/parallel/expert_parallel.py"
COMM, ENGINE = "spacescale/parallel/comm.py", "spacescale/parallel/engine.py"
SYNC_BATCHNORM = "spacescale/parallel/sync_batchnorm.py"
BIGWIG, INTERVALS = "spacescale/genome/bigwig.py", "spacescale/genome/interval_values.py"
READER, ZARR = "spacescale/dataset/reader.py", "spacescale/dataset/zarr_targets.py"
SCRATCH, SEQUENCE = "spacescale/prepare/scratch.py", "spacescale/prepare/sequence.py"
GENOME_WINDOWS = "spacescale/dataset/genome_windows.py"
SEQUENCE_SPLITS = "spacescale/dataset/sequence_splits.py"

RELEASED = "tests/golden/test_parity.py::test_evaluation"
TWO_RANKS = "tests/distributed/test_expert_parallel.py"
CURVES = "tests/distributed/test_equivalence.py"


@dataclass(frozen=True)
class Fault:
    """In `file`, `old`, which stands there once, becomes `new`; then `tests` must fail.

    tests: arguments of pytest.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


TRAINING_FAULTS = {
    # --- attention and its relative positions
    "the sign of distances is turned": Fault(
        ATTENTION,
        "distance.sign()[:, None] * symmetric",
        "-distance.sign()[:, None] * symmetric",
        (RELEASED,),
    ),
    "relative logits are one position off": Fault(
        ATTENTION, "columns + n - 1)", "columns + n - 2)", ("tests/model/test_attention.py",)
    ),
    "queries are not scaled": Fault(
        ATTENTION,
        "self.to_q(x)) * self.dim_key**-0.5",
        "self.to_q(x)) * 1.0",
        ("tests/model/test_attention.py",),
    ),
    "contents take the bias of positions": Fault(
        ATTENTION,
        "content = (q + self.rel_content_bias)",
        "content = (q + self.rel_pos_bias)",
        ("tests/model/test_attention.py",),
    ),
    "the shortest half-life is 4 bins, not 8": Fault(
        ATTENTION, "torch.linspace(3.0,", "torch.linspace(2.0,", (RELEASED,)
    ),
    "central masks reach one bin further": Fault(
        ATTENTION, "(reach > magnitude)", "(reach >= magnitude)", (RELEASED,)
    ),
    "gamma functions are scaled over the other axis": Fault(
        ATTENTION, "dim=0 if per_feature else 1", "dim=1 if per_feature else 0", (RELEASED,)
    ),
    # --- convolutions, pooling, crop
    "pooling prefers the smaller of a pair": Fault(
        LAYERS,
        "share = torch.sigmoid(convolve(difference, self.to_logits.weight, None))",
        "share = torch.sigmoid(-convolve(difference, self.to_logits.weight, None))",
        ("tests/model/test_layers.py",),
    ),
    "an odd last position is pooled with zero": Fault(
        LAYERS,
        '(0, 1), mode="replicate"',
        '(0, 1), mode="constant"',
        ("tests/model/test_layers.py",),
    ),
    "GELU is steeper": Fault(LAYERS, "GELU_SLOPE = 1.702", "GELU_SLOPE = 1.8", (RELEASED,)),
    "gradients meet taps the wrong way round": Fault(
        LAYERS,
        "weight.transpose(0, 1).flip(2)",
        "weight.transpose(0, 1)",
        ("tests/model/test_layers.py",),
    ),
    "running variance is the biased one": Fault(
        LAYERS,
        "variance * (count / (count - 1))",
        "variance",
        ("tests/model/test_layers.py",),
    ),
    "the crop is one bin further right": Fault(
        LAYERS,
        "x[:, excess // 2 : excess // 2 + length]",
        "x[:, excess // 2 + 1 : excess // 2 + 1 + length]",
        ("tests/model/test_space.py", "-k", "predicted_bins"),
    ),
    "an odd crop drops its extra bin in front": Fault(
        LAYERS,
        "x[:, excess // 2 : excess // 2 + length]",
        "x[:, (excess + 1) // 2 : (excess + 1) // 2 + length]",
        ("tests/model/test_space.py", "-k", "predicted_bins"),
    ),
    "the token is taken for the first position": Fault(
        SPACE,
        "x, state = x[:, :-1], x[:, -1]",
        "x, state = x[:, 1:], x[:, 0]",
        ("tests/model/test_space.py", "-k", "predicted_bins"),
    ),
    # --- router and experts
    "the least likely experts are chosen": Fault(
        ROUTER,
        "topk(self.top_k, dim=-1)",
        "topk(self.top_k, dim=-1, largest=False)",
        ("tests/model/test_moe.py",),
    ),
    "gates share their softmax with experts not chosen": Fault(
        ROUTER,
        "F.leaky_relu(logits.gather(-1, experts), LEAKY_SLOPE).softmax(dim=-1)",
        "F.leaky_relu(logits, LEAKY_SLOPE).softmax(dim=-1).gather(-1, experts)",
        ("tests/model/test_moe.py",),
    ),
    "all species take the first one's gate": Fault(
        ROUTER,
        "at_least_float32(weight[species])",
        "at_least_float32(weight[0 * species])",
        ("tests/model/test_moe.py",),
    ),
    "own experts are chosen by all but their species": Fault(
        ROUTER, "(species == place)[", "(species != place)[", ("tests/model/test_own_experts.py",)
    ),
    "experts see what no LayerNorm has seen": Fault(
        MOE,
        "self.norm(x).flatten(0, 1), routing",
        "x.flatten(0, 1), routing",
        ("tests/model/test_moe.py",),
    ),
    "experts' rows return to other tokens": Fault(
        MOE,
        "rows.index_select(0, place)",
        "rows.index_select(0, order)",
        ("tests/model/test_moe.py",),
    ),
    "experts are linear": Fault(
        EXPERTS,
        "self.hidden_dropout(F.relu(F.linear(chunk, w1, b1)))",
        "self.hidden_dropout(F.linear(chunk, w1, b1))",
        ("tests/model/test_moe.py",),
    ),
    # --- decoder and heads
    "gates of a type are not weighed": Fault(
        DECODER,
        "gate_weights(logits, experts) * group_weights[:, track_types, :, None]",
        "gate_weights(logits, experts)",
        ("tests/model/test_moe.py",),
    ),
    "the decoder replaces the profile it should refine": Fault(
        DECODER,
        "enhanced = base + self._mix",
        "enhanced = self._mix",
        ("tests/model/test_moe.py",),
    ),
    "gates do not know the profile's type": Fault(
        DECODER,
        "inputs = profiles + self.type_embedding[track_types]",
        "inputs = profiles",
        ("tests/model/test_moe.py",),
    ),
    "the output is a sum, not a mean": Fault(
        SPACE,
        "F.softplus((base + enhanced) / 2)",
        "F.softplus(base + enhanced)",
        ("tests/model/test_space.py",),
    ),
    "heads of absent species take no part": Fault(
        SPACE,
        "zero = zero + head(features[:0]).sum()",
        "pass",
        ("tests/model/test_space.py", "-k", "absent"),
    ),
    # --- losses
    "the Poisson loss grows with agreement": Fault(
        LOSSES,
        "prediction - target * prediction",
        "prediction + target * prediction",
        ("tests/model/test_losses.py",),
    ),
    "mutual information is made small": Fault(
        LOSSES, "return -(joint * torch", "return (joint * torch", ("tests/model/test_losses.py",)
    ),
    "the variance of usage is not relative": Fault(
        LOSSES,
        "(usage.mean() ** 2 + 1e-10)",
        "(usage.mean() + 1e-10)",
        ("tests/model/test_losses.py",),
    ),
    "the z-loss weighs rows alike, whatever they hold": Fault(
        LOSSES,
        "sums.logit_squares.sum() / sums.num_logits.sum()",
        "(sums.logit_squares / sums.num_logits.clamp(min=1)).mean()",
        ("tests/model/test_losses.py",),
    ),
    "the two Poisson terms are not averaged": Fault(
        LOSSES,
        "loss = (loss + poisson[name](output.enhanced[name], target)) / 2",
        "loss = loss + poisson[name](output.enhanced[name], target)",
        ("tests/model/test_losses.py",),
    ),
    "ranks do not share the count of what was measured": Fault(
        LOSSES,
        "share = (sums[-1] / count",
        "share = (1 / count",
        ("tests/distributed/test_unmeasured_targets.py",),
    ),
    # --- several ranks
    "gradients through the all-to-all are 1 % off": Fault(
        COMM,
        "return _exchange(grad, ctx.receive",
        "return 1.01 * _exchange(grad, ctx.receive",
        (TWO_RANKS,),
    ),
    "gradients of a sum over ranks stay at home": Fault(
        COMM, "return add_over_ranks(grad)", "return grad", (TWO_RANKS,)
    ),
    "BatchNorm forgets that the ranks' means differ": Fault(
        SYNC_BATCHNORM, "(variances + (means - mean) ** 2)", "variances", (TWO_RANKS,)
    ),
    "BatchNorm keeps gradients of other ranks' windows": Fault(
        SYNC_BATCHNORM, "add_over_ranks(grad)[rank()]", "grad[rank()]", (TWO_RANKS,)
    ),
    "BatchNorm sees its own windows only": Fault(
        SYNC_BATCHNORM, "if world_size() == 1:", "if True:", (TWO_RANKS,)
    ),
    "rows of several ranks reach the wrong experts": Fault(
        EXPERT_PARALLEL,
        "local = swap_blocks(all_to_all(rows, send, receive, self.ep_group), received)",
        "local = all_to_all(rows, send, receive, self.ep_group)",
        (TWO_RANKS,),
    ),
    "gradients of experts count twice": Fault(
        EXPERT_PARALLEL,
        "            self._tag_for_engine(local)\n",
        "            self._tag_for_engine(local)\n"
        "            local.register_hook(lambda grad: 2 * grad)\n",
        (TWO_RANKS,),
    ),
    "experts are averaged as if every rank held them": Fault(
        EXPERT_PARALLEL, '"allreduce": False', '"allreduce": True', (CURVES, "-k", "world2")
    ),
    "gradients are clipped at another norm": Fault(
        ENGINE,
        "model=model, optimizer=optimizer, config=deepspeed_config)",
        'model=model, optimizer=optimizer, config=deepspeed_config | {"gradient_clipping": 0.202})',
        (CURVES, "-k", "world1"),
    ),
    "the second moments are forgotten sooner": Fault(
        "spacescale/config.py",
        "beta2: Fraction = 0.999",
        "beta2: Fraction = 0.99",
        ("tests/parallel/test_engine.py",),
    ),
    "experts' biases decay": Fault(
        ENGINE,
        '"embedding", ".w3")',
        '"embedding")',
        ("tests/parallel/test_engine.py",),
    ),
    # --- BigWigs
    "a window takes the interval that ends before it": Fault(
        INTERVALS, ', side="right")\n    last =', ")\n    last =", ("tests/genome/test_bigwig.py",)
    ),
    "sections of fixed steps are laid out by step, not span": Fault(
        BIGWIG,
        "starts + spans.astype(dtype).repeat(counts)",
        "starts + steps.astype(dtype).repeat(counts)",
        ("tests/genome/test_bigwig.py",),
    ),
    "a block kept from before is taken for the next one": Fault(
        BIGWIG,
        "if numbers[-1] < end:",
        "if numbers[-1] <= end:",
        ("tests/genome/test_bigwig.py",),
    ),
    "windows without any block are zero": Fault(
        BIGWIG,
        "values = np.full((starts.size, width), np.nan, dtype=np.float32)",
        "values = np.zeros((starts.size, width), dtype=np.float32)",
        ("tests/genome/test_bigwig.py",),
    ),
    "infinite coverage passes": Fault(
        BIGWIG,
        "if intervals.has_infinite and np.isinf(values).any():",
        "if False:",
        ("tests/genome/test_bigwig.py",),
    ),
    # --- from coverage to targets
    "a bin of which some bases are missing is not measured": Fault(
        "spacescale/prepare/track_reader.py",
        "~measured.any(axis=1)",
        "~measured.all(axis=1)",
        ("tests/prepare/test_missing_and_masks.py",),
    ),
    "windows of all contigs are read from the first": Fault(
        "spacescale/prepare/track_reader.py",
        "key=lambda window: window.chrom",
        "key=lambda window: None",
        ("tests/prepare/test_stages.py", "-k", "every_row"),
    ),
    "a batch leaves its last window out": Fault(
        "spacescale/prepare/track_reader.py",
        "for start in range(first, end, size):",
        "for start in range(first, end, size + 1):",
        ("tests/prepare/test_track_reader.py", "-k", "together"),
    ),
    # --- data sets: writing, reading, augmenting
    "a track is put down one place further": Fault(
        SCRATCH,
        "file.seek(part * self",
        "file.seek((part + 1) * self",
        ("tests/prepare/test_scratch.py",),
    ),
    "contigs lie one base further": Fault(
        SEQUENCE,
        "offset += lengths[name]\n    return",
        "offset += lengths[name] + 1\n    return",
        ("tests/prepare/test_stages.py", "-k", "byte_identical"),
    ),
    "the sequence is shifted the other way": Fault(
        READER, "- margin // 2 + shift", "- margin // 2 - shift", ("tests/dataset/test_reader.py",)
    ),
    "a window's neighbour is read": Fault(
        ZARR,
        "[row % self._windows_per_shard]",
        "[(row + 1) % self._windows_per_shard]",
        ("tests/dataset/test_reader.py", "tests/prepare/test_stages.py"),
    ),
    "flipped bits pass": Fault(
        ZARR,
        'if google_crc32c.value(content) != int.from_bytes(checksum, "little"):',
        "if False:",
        ("tests/dataset/test_reader.py",),
    ),
    "strands are not exchanged in a reverse complement": Fault(
        "spacescale/dataset/augment.py",
        "targets[::-1, strand_pair]",
        "targets[::-1]",
        ("tests/dataset/test_augment.py",),
    ),
    # --- windows anywhere
    "the first base of a byte is its lowest bit": Fault(
        SEQUENCE,
        "bits = np.packbits(bases)",
        'bits = np.packbits(bases, bitorder="little")',
        ("tests/prepare/test_whole_genome.py",),
    ),
    "what is left out trains": Fault(
        SEQUENCE_SPLITS,
        "asked.keys() - {EXCLUDED}",
        "asked.keys()",
        ("tests/dataset/test_sequence_splits.py",),
    ),
    "training comes before what is held out": Fault(
        SEQUENCE_SPLITS,
        "key=precedence)",
        "key=precedence, reverse=True)",
        ("tests/dataset/test_sequence_splits.py",),
    ),
    "windows reach past their stretch": Fault(
        GENOME_WINDOWS,
        "places = bp - length + 1",
        "places = bp",
        ("tests/dataset/test_genome_windows.py",),
    ),
    "windows of N are kept": Fault(
        GENOME_WINDOWS,
        "max_unknown:\n                return window",
        "max_unknown or True:\n                return window",
        ("tests/dataset/test_genome_windows.py",),
    ),
    "repeats are not turned with their bases": Fault(
        GENOME_WINDOWS,
        "repeats=self.repeats[::-1].copy()",
        "repeats=self.repeats.copy()",
        ("tests/dataset/test_genome_windows.py",),
    ),
    # --- what is said of a model
    "a loss is the better the higher it is": Fault(
        "spacescale/config.py",
        "return -score if is_loss else score",
        "return score",
        ("tests/train/test_validation_watch.py", "tests/checkpoint/test_found.py"),
    ),
    "a species' loss counts twice": Fault(
        "spacescale/train/interval_losses.py",
        "self.total + other.total,",
        "self.total + 2 * other.total,",
        ("tests/train/test_interval_losses.py",),
    ),
    "a run goes on from another objective": Fault(
        "spacescale/checkpoint/compatibility.py",
        "if saved.objective != config.objective:",
        "if False:",
        ("tests/checkpoint/test_compatibility.py",),
    ),
    "exports leave out what an objective attaches": Fault(
        "spacescale/checkpoint/convert.py",
        "for attached in objective.attachments:",
        "for attached in ():",
        ("tests/objectives/test_seam.py",),
    ),
    # --- what is said of arms
    "a shared gate is that of the species": Fault(
        ROUTER,
        "1 if self.shares_gate else self.num_species",
        "self.num_species",
        ("tests/model/test_shared_gate.py",),
    ),
    # --- what training holds predictions against
    "spiky tracks weigh more": Fault(
        "spacescale/objectives/species_targets.py",
        "(dispersion + LEAST_DISPERSION) ** -balance",
        "(dispersion + LEAST_DISPERSION) ** balance",
        ("tests/objectives/test_species_targets.py",),
    ),
    "species weigh the same however spiky": Fault(
        "spacescale/objectives/species_targets.py",
        "(weights[name] / mean).float()",
        "(weights[name] / weights[name].mean()).float()",
        ("tests/objectives/test_species_targets.py",),
    ),
    "track weights reach only species without gaps": Fault(
        LOSSES,
        "track_weights=weights[name],",
        "track_weights=1.0,",
        ("tests/model/test_losses.py",),
    ),
    "a resumed run may predict on another scale": Fault(
        "spacescale/checkpoint/compatibility.py",
        'for name in LossConfig.model_fields if name != "track_scale"',
        "for name in LossConfig.model_fields",
        ("tests/commands/test_pretrain_refusals.py",),
    ),
    "every beat is answered by a beat": Fault(
        "spacescale/parallel/watch.py",
        "if now >= beaten + BEAT_S:",
        "if True:",
        ("tests/parallel/test_watch.py",),
    ),
}
