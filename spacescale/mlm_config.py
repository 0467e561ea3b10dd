"""How tokens are read and hidden in masked language modelling; defaults as of Genomics-FM."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from spacescale.sections import Section

VocabularyName = Literal["bpe", "kmer"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class MlmConfig(Section):
    """Vocabularies, masks and lengths; for the objective `tokens` alone."""

    vocabulary: str = Field(
        default="",
        description="file or folder: what data_prep/vocabulary.py made, or the tokenizer.json of a "
        "published BPE",
    )
    vocabulary_sha256: str = Field(
        default="", description="its identity, filled in at the start of a run"
    )
    vocabularies: tuple[VocabularyName, ...] = Field(
        default=("bpe", "kmer"),
        min_length=1,
        description="which of its vocabularies are trained; each micro-batch holds as many "
        "sequences of each, told apart by a prompt where there are several",
    )
    bpe_rate: Share = Field(default=0.15, description="share of BPE tokens that are hidden")
    kmer_centre_rate: Share = Field(
        default=0.15 / 6, description="share of k-mers that are the centre of a hidden span"
    )
    kmer_span: int = Field(
        default=14,
        ge=1,
        description="k-mers of a hidden span; of w, w − k + 1 bases cannot be read off the rest",
    )
    masked_share: Share = Field(
        default=0.8, description="of hidden spans, those that become [MASK]; drawn once per span"
    )
    random_share: Share = Field(
        default=0.1, description="and those that become other words; the rest stay as they are"
    )
    bpe_bp: int = Field(default=2300, ge=1, description="longest sequences read as BPE")
    kmer_bp: int = Field(default=510, ge=1, description="longest sequences read as k-mers")
    shortest_bp: int = Field(default=70, ge=1, description="shortest sequences of either")
    longest_share: Share = Field(
        default=0.5, description="of sequences, those of the longest length; others are uniform"
    )
    max_tokens: int = Field(
        default=512, ge=8, description="of a row, with its specials; what is longer loses its end"
    )

    @model_validator(mode="after")
    def _check(self) -> MlmConfig:
        if len(set(self.vocabularies)) < len(self.vocabularies):
            raise ValueError(f"mlm.vocabularies={list(self.vocabularies)}: one stands twice")
        if self.masked_share + self.random_share > 1:
            raise ValueError(
                f"mlm.masked_share={self.masked_share} and random_share={self.random_share} are "
                "more than all spans"
            )
        longest = min(self.bpe_bp, self.kmer_bp)
        if self.shortest_bp > longest:
            raise ValueError(f"mlm.shortest_bp={self.shortest_bp} exceeds the longest, {longest}")
        return self
