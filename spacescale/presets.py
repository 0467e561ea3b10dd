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
# Each preset names only what differs from the defaults above (the published large model).
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
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
}
EMBEDDED_PRESET, DEFAULT_PRESET = "space_demo", "space_tiny"

# Genomics-FM's encoders (spacescale/encoder_config.py): base and large as counted from the paper's
# 120 M and 400 M parameters, which give no shapes, and one for CPUs.
ENCODERS: dict[str, dict[str, int]] = {
    "genomics_fm_base": {"dim": 768, "depth": 12, "heads": 12, "ffn_dim": 3072},
    "genomics_fm_large": {"dim": 1024, "depth": 24, "heads": 16, "ffn_dim": 4096},
    "genomics_fm_tiny": {"dim": 256, "depth": 4, "heads": 4, "ffn_dim": 1024},
}
