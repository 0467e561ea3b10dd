"""The model card of an encoder of tokens, `README.md` of its folder."""

from __future__ import annotations

from typing import Any

from spacescale import __version__
from spacescale.hub.card import beginning

WORDS = {"bpe": "byte pairs", "kmer": "overlapping k-mers"}
LIMITS = (
    "It was trained to say which words of a sequence were hidden, and nothing else: for a task, "
    "fine-tune it. Of two vocabularies a row is made of one, under its prompt."
)


def encoder_card(config: dict[str, Any], parameters: int, checksums: dict[str, str]) -> str:
    """The card's text.

    config: the folder's `config.json`. checksums: path in the folder → sha256.
    """
    model, mlm, trained = config["model"], config["mlm"], config["trained"]
    names, species = mlm["vocabularies"], list(trained["data_manifests"])
    scores = {
        name.removeprefix("valid/"): value
        for name, value in trained["metrics"].items()
        if name.startswith("valid/") and value is not None
    }
    parts = [
        "---",
        "library_name: transformers",
        "license: apache-2.0",
        "pipeline_tag: fill-mask",
        "tags: [biology, genomics, dna, spacescale]",
        "---\n",
        f"# An encoder of DNA, {parameters / 1e6:,.1f} M parameters: {', '.join(species)}\n",
        "A masked language model of genomes after Genomics-FM (bioRxiv 2024.07.16.603653), trained "
        f"and exported by spacescale {__version__}.\n",
        "## Load it\n",
        "```python",
        "from transformers import AutoModel, AutoModelForMaskedLM  # 5.x, and torch: nothing else",
        "",
        'model = AutoModel.from_pretrained("FOLDER or org/name", trust_remote_code=True)',
        f'row = model.encode("ACGTTGCAAC", "{names[0]}")  # input_ids and attention_mask',
        "states = model(**row).last_hidden_state",
        "```\n",
        f"- {model['vocab_size']:,} words of {' and '.join(WORDS[name] for name in names)}, "
        f"sha256 {mlm['vocabulary_sha256']} (`vocabulary/vocabulary.json`)",
        f"- {model['depth']} layers of {model['dim']} channels and {model['heads']} heads, ALiBi: "
        f"rows may be of any length, those of training had up to {mlm['max_tokens']} tokens",
        f"- trained for {trained['step']:,} steps\n",
        *beginning(trained),
        LIMITS + "\n",
        "## Scores of its last validation\n",
        "| score | value |",
        "|---|---|",
        *(f"| {name} | {value:.4g} |" for name, value in sorted(scores.items())),
        "",
        "## Files\n",
        "| file | sha256 |",
        "|---|---|",
        *(f"| `{name}` | `{digest}` |" for name, digest in sorted(checksums.items())),
        "",
    ]
    return "\n".join(parts)
