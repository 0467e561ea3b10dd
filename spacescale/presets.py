"""Presets: what of the configuration (config.py) they set, by section; the rest is the default."""

from typing import Any

# What the released code computes, where the defaults of config.py follow the paper or mend a fault.
RELEASED: dict[str, dict[str, Any]] = {
    "model": {
        "batchnorm": "per_species",
        "group_weights": "mean_of_softmaxes",
        "odd_crop": "released",
        "zero_gates": "released",
        "unused_layer_norm": True,
        "track_grouping": "released",
    },
    "loss": {
        "track_scale": "none",
        "poisson_reduction": "species",
        "routing_scope": "rank",
        "mi_normaliser": "tokens",
        "cv_over": "gates",
        "z_reduction": "sum",
        "empty_types": "nan",
    },
}
_LARGE = {"seq_length": 196_608, "unused_layer_norm": True}
_SMALL = {"dim": 768, "tracks_num_experts": 10, "unused_layer_norm": True}
# What little data are learnt from best: found on real sets of 2 to 3 Mb, see docs/choosing.md.
_LITTLE_DATA = {"track_scale": "log1p", "track_balance": 1.0}
_ON_GPUS = {"micro_batch_size": 2, "num_workers": 4}
# Genomics-FM's encoders (spacescale/encoder_config.py): base and large as counted from the paper's
# 120 M and 400 M parameters, which give no shapes, and one for CPUs.
ENCODERS: dict[str, dict[str, int]] = {
    "genomics_fm_base": {"dim": 768, "depth": 12, "heads": 12, "ffn_dim": 3072},
    "genomics_fm_large": {"dim": 1024, "depth": 24, "heads": 16, "ffn_dim": 4096},
    "genomics_fm_tiny": {"dim": 256, "depth": 4, "heads": 4, "ffn_dim": 1024},
}


def _tokens(size: str, **changes: dict[str, Any]) -> dict[str, Any]:
    """A preset of an encoder. The optimiser's settings, the batch and the steps between
    validations and checkpoints are those of the released script of Genomics-FM."""
    sections: dict[str, dict[str, Any]] = {
        "model": {"kind": "encoder"} | ENCODERS[size],
        "optim": {
            "lr": 1e-4,
            "beta2": 0.98,
            "eps": 1e-6,
            "max_steps": 1_000_000,
            "warmup_steps": 10_000,
            "schedule": "linear",
        },
        "data": {"micro_batch_size": 192, "species_balance": 0.5, "num_workers": 8},
        "run": {"best_metric": "valid/loss", "valid_every": 5_000, "save_every": 25_000},
    }
    for name, fields in changes.items():
        sections[name] = sections.get(name, {}) | fields
    return {"objective": "tokens"} | sections


# Each preset names only what differs from the defaults above (the published large model).
PRESETS: dict[str, dict[str, Any]] = {
    "space_10b": {
        "model": {"seq_length": 196_608, "dim": 3072, "species_num_experts": 24},
        "data": _ON_GPUS | {"micro_batch_size": 1},
        "parallel": {"max_ep_size": 8},
    },
    "space_2b": {
        "model": {"seq_length": 196_608, "species_num_experts": 24},
        "data": _ON_GPUS,
        "parallel": {"max_ep_size": 8},
    },
    "space_large": {"model": _LARGE, "data": _ON_GPUS},
    "space_small": {"model": _SMALL, "data": _ON_GPUS},
    # The published large run, faults included; with this one the published curves can be compared.
    "space_released": {
        "model": _LARGE | RELEASED["model"],
        "loss": RELEASED["loss"],
        "data": _ON_GPUS,
    },
    # The paper's ablations (Table 4), at its smaller size, and the model it started from.
    "space_no_decoder": {
        "model": {"dim": 768, "decoder": "none"},
        "data": _ON_GPUS,
    },
    "space_mlp_decoder": {
        "model": {"dim": 768, "decoder": "mlp", "tracks_num_experts": 10},
        "data": _ON_GPUS,
    },
    "space_dense_encoder": {"model": _SMALL | {"species_num_experts": 0}, "data": _ON_GPUS},
    "space_dense_no_species": {
        "model": _SMALL | {"species_num_experts": 0, "species_token": False},
        "data": _ON_GPUS,
    },
    "enformer": {
        "model": {
            "seq_length": 196_608,
            "species_num_experts": 0,
            "species_token": False,
            "decoder": "none",
        },
        "data": _ON_GPUS,
    },
    "space_tiny": {
        "model": {
            "seq_length": 16_384,
            "target_length": 112,
            "stem_dim": 32,
            "pool_sharpness": 0.25,
            "dim": 96,
            "dim_divisible_by": 16,
            "dilated_convs": 5,
            "depth": 4,
            "heads": 4,
            "attn_dim_key": 32,
            "dropout": 0.1,
        },
        "loss": _LITTLE_DATA,
        "optim": {"lr": 5e-4, "max_steps": 8000, "warmup_steps": 100},
        "data": {"micro_batch_size": 2},
        "run": {"valid_every": 500, "save_every": 500},
    },
    "space_demo": {
        "model": {
            "seq_length": 2048,
            "target_length": 48,
            "num_downsamples": 5,
            "dim": 96,
            "dim_divisible_by": 16,
            "dilated_convs": 5,
            "depth": 2,
            "heads": 4,
            "attn_dim_key": 16,
            "dropout": 0.1,
        },
        "optim": {"lr": 2e-3, "max_steps": 1600, "warmup_steps": 100},
        # Finch, of many tracks, has to be read more often for its own motif to be found in time.
        "data": {"micro_batch_size": 24, "species_balance": 0.5},
        "run": {"valid_every": 200, "save_every": 200},
    },
    "genomics_fm_base": _tokens("genomics_fm_base"),
    "genomics_fm_large": _tokens("genomics_fm_large", data={"micro_batch_size": 64}),
    # For CPUs: about a second a step on two cores.
    "genomics_fm_tiny": _tokens(
        "genomics_fm_tiny",
        optim={"lr": 5e-4, "max_steps": 2000, "warmup_steps": 200},
        data={"micro_batch_size": 8, "num_workers": 0},
        run={"valid_every": 250, "save_every": 500},
    ),
    # One vocabulary each, without prompts.
    "dnabert2": _tokens(
        "genomics_fm_base", model={"vocab_size": 4096}, mlm={"vocabularies": ["bpe"]}
    ),
    "dnabert": _tokens(
        "genomics_fm_base", model={"vocab_size": 4101}, mlm={"vocabularies": ["kmer"]}
    ),
}
EMBEDDED_PRESET, DEFAULT_PRESET = "space_demo", "space_tiny"
