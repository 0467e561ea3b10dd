"""Which experts a model uses: gate mass summed per species, and per species and assay.

Shapes: M routed layers, S species, P assays (profile types), E experts.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class ExpertUse:
    """Gate mass of the cross-species experts and of the decoder's, float64 sums that add.

    encoder [M, S, E], decoder [S, P, E]; a model without one of them has 0 layers or experts.
    """

    def __init__(
        self,
        species: Sequence[str],
        assays: Sequence[str],
        num_layers: int,
        num_experts: int,
        num_decoder_experts: int,
        device: torch.device | str = "cpu",
    ):
        self.species, self.assays = tuple(species), tuple(assays)
        shape = (num_layers, len(species), num_experts)
        self.encoder = torch.zeros(shape, dtype=torch.float64, device=device)
        shape = (len(species), len(assays), num_decoder_experts)
        self.decoder = torch.zeros(shape, dtype=torch.float64, device=device)

    def update(self, encoder: Sequence[Tensor], decoder: Tensor | None = None) -> None:
        """Add one forward pass: gate mass [S, E] per layer, and [S × P, E] species-major."""
        if encoder:
            self.encoder += torch.stack([mass.detach() for mass in encoder])
        if decoder is not None:
            self.decoder += decoder.detach().view_as(self.decoder)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return the sums themselves, so that a caller may all-reduce them in place."""
        return self.encoder, self.decoder

    def __add__(self, other: "ExpertUse") -> "ExpertUse":
        layers, _, experts = self.encoder.shape
        total = ExpertUse(
            self.species, self.assays, layers, experts, self.decoder.shape[-1], self.encoder.device
        )
        total.encoder += self.encoder + other.encoder
        total.decoder += self.decoder + other.decoder
        return total

    def cpu(self) -> "ExpertUse":
        """The same on the CPU."""
        self.encoder, self.decoder = self.encoder.cpu(), self.decoder.cpu()
        return self

    def encoder_shares(self) -> dict[str, Tensor]:
        """Return per species the share of gate mass of each expert, float64 [M, E]; {} if M = 0."""
        if not len(self.encoder):
            return {}
        return dict(zip(self.species, expert_shares(self.encoder).unbind(1), strict=True))

    def decoder_shares(self) -> dict[tuple[str, str], Tensor]:
        """Return per (species, assay) the experts' shares, float64 [E], where there are tracks."""
        parts = expert_shares(self.decoder)
        return {
            (species, assay): parts[s, p]
            for s, species in enumerate(self.species)
            for p, assay in enumerate(self.assays)
            if self.decoder[s, p].sum() > 0
        }


def expert_shares(mass: Tensor) -> Tensor:
    """Normalise gate mass [..., E] to sum 1 over the experts; NaN where there is none."""
    return mass / mass.sum(-1, keepdim=True)
