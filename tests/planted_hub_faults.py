"""Mistakes that the tests must notice, of the Hub and of adding to a trained model.

As `planted_faults.py`, which has all others.
"""

from planted_faults import ATTENTION, DECODER, ENGINE, LAYERS, Fault

PUSH, PUSHES = "spacescale/hub/push.py", "tests/hub/test_push.py"

HUB_FAULTS = {
    # --- the Hub
    "a push that broke off leaves its empty repository": Fault(
        PUSH, "self.api.delete_repo(self.name)", "pass", (PUSHES,)
    ),
    "a push takes away a commit that came after all": Fault(
        PUSH, "if not self._is_as_made(info):", "if False:", (PUSHES,)
    ),
    "a push leaves older shards beside its own": Fault(
        PUSH, "for name in sorted(replaced)", "for name in sorted(())", (PUSHES,)
    ),
    "private weights go into a public repository": Fault(
        PUSH, "if private and not info.private:", "if False:", (PUSHES,)
    ),
    "the branch that a push is for is not named": Fault(
        PUSH, "            revision=self.revision,\n", "", (PUSHES,)
    ),
    "a repository of others is removed": Fault(
        PUSH, "if 400 <= error.response.status_code < 500:", "if False:", (PUSHES,)
    ),
    "a repository without its branch is left": Fault(
        PUSH, "self._made = before or what", "self._made = what", (PUSHES,)
    ),
    "weights of others in folders of their own are removed": Fault(
        "spacescale/hub/contents.py",
        'name.count("/") == pattern.count("/") and ',
        "",
        (PUSHES,),
    ),
    "the best loss is the highest": Fault(
        "spacescale/hub/card.py",
        '("validation loss", min)',
        '("validation loss", max)',
        ("tests/hub/test_card.py",),
    ),
    "weights are copied when they are loaded": Fault(
        "spacescale/model/exports.py",
        "model.load_state_dict(fitting, assign=True)",
        "model.to_empty(device='cpu').load_state_dict(fitting)",
        ("tests/checkpoint/test_consolidate.py",),
    ),
    "files that are not whole are not named": Fault(
        "spacescale/hub/proved.py",
        "            where = path\n",
        "",
        ("tests/hub/test_half_downloads.py",),
    ),
    "adapters of attention are passed over": Fault(
        ATTENTION,
        "self.to_q(x)) * self.dim_key**-0.5",
        "F.linear(x, self.to_q.weight)) * self.dim_key**-0.5",
        ("tests/hub/test_fine_tuning.py",),
    ),
    # --- parameters that are not trained
    "profile types are multiplied together": Fault(
        DECODER,
        "F.linear(x, w.clone(), b.clone()) for w, b in zip(weights, biases, strict=True)",
        "F.linear(x, self.weight, self.bias).unflatten(-1, (self.num_types, -1))[..., i, :]"
        " for i in range(self.num_types)",
        ("tests/train/test_initial_weights.py",),
    ),
    "a frozen BatchNorm goes on with its statistics": Fault(
        LAYERS,
        "super().train(mode and not self.frozen)",
        "super().train(mode)",
        ("tests/parallel/test_freezing.py",),
    ),
    "frozen rows decay": Fault(
        ENGINE,
        "groups[plain or name in undecayed,",
        "groups[plain,",
        ("tests/parallel/test_freezing.py",),
    ),
    "ranks save the same share of what is frozen": Fault(
        "spacescale/checkpoint/partitions.py",
        "holders, place = comm.world_size() // of, comm.rank() // of",
        "holders, place = comm.world_size() // of, 0",
        ("tests/train/test_adding.py",),
    ),
    "every rank freezes the rows of the first": Fault(
        "spacescale/parallel/freezing.py",
        "rows_here(parameter, frozen)",
        "frozen[: len(parameter)]",
        ("tests/train/test_adding.py",),
    ),
    "weights of old species are not compared": Fault(
        "spacescale/train/only_new.py",
        "if not torch.equal(t, kept[k])]",
        "if t.shape != kept[k].shape]",
        ("tests/train/test_adding.py",),
    ),
}
