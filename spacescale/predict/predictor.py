"""A trained model that takes sequences as people have them, and names the unit of its answers.

Shapes: B sequences, L bases, N bins, T tracks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from spacescale.errors import UserError
from spacescale.genome.aliases import suggest
from spacescale.genome.dna import HIDDEN, N, encode, reverse_complement
from spacescale.genome.tracks import Track
from spacescale.genome.transforms import TRANSFORMS
from spacescale.model.exports import local_folder
from spacescale.model.hybrid import Hidden, HybridOutput, HybridSpace
from spacescale.predict.trained_model import TrainedModel, load_trained

Unit = Literal["means", "stored", "coverage"]
UNITS: dict[Unit, str] = {
    "means": "multiples of each track's mean over its training windows",
    "stored": "targets as the data set stores them, clipped and scaled",
    "coverage": "values of the track's own file in each bin, as its sum_stat adds them up; scale, "
    "soft clip and root undone, a hard clip is not",
}
Strands = Literal["forward", "reverse", "both"]
Precision = Literal["float32", "bfloat16", "float16"]


class Predictor:
    """One species of a trained model, on one device.

        predictor = Predictor.load("exports/yeast")
        tracks = predictor.predict(window)  # (N, T), multiples of each track's mean
        features = predictor.embed("ACGTTGCA")  # (positions, channels)

    species, tracks (of the species, in the order of T), bin_size and window (bp that `predict`
    takes) and span (bp that it predicts, the window's centre) say what it is.
    """

    def __init__(
        self,
        trained: TrainedModel,
        species: str | None = None,
        device: torch.device | str | None = None,
        precision: Precision = "float32",
        batch_size: int = 4,
    ):
        """Take one species of a model that is loaded.

        species: may be left out where the model has one. device: default the first GPU there is,
        else the CPU. precision: of weights and activations; routing and predictions are float32.
        Raises UserError for a species that is not given or unknown.
        """
        self.trained = trained
        self.species = _one_species(trained, species)
        self.tracks: list[Track] = trained.tracks.get(self.species, [])
        config = trained.model.config
        self.bin_size, self.window = config.bin_size, config.seq_length
        self.span = config.target_length * config.bin_size
        self.batch_size, self.precision = batch_size, precision
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        try:
            self.model = trained.model.to(self.device, getattr(torch, precision)).eval()
        except (RuntimeError, AssertionError) as error:  # no such device, or no memory on it
            raise UserError(f"device {self.device}: {str(error).splitlines()[0]}") from None
        self._scale = trained.track_scale(self.species)
        self._strand_pair = np.array([track.strand_pair for track in self.tracks], dtype=np.int64)

    @classmethod
    def load(
        cls,
        weights: str | Path,
        species: str | None = None,
        device: torch.device | str | None = None,
        precision: Precision = "float32",
        batch_size: int = 4,
        revision: str | None = None,
    ) -> Predictor:
        """Load an export, a checkpoint or a run folder (its best), and take one species of it.

        weights: or ORG/NAME of the Hub, where revision is a branch, tag or commit. Raises
        UserError where there is none of them, it is damaged, or the species is unclear.
        """
        folder = local_folder(weights, revision)
        return cls(load_trained(folder), species, device, precision, batch_size)

    def predict(
        self,
        sequences: str | Sequence[str] | np.ndarray | Tensor,
        unit: Unit = "means",
        strands: Strands = "forward",
        rows: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Predict the tracks of windows: float32 (B, N, T), or (N, T) of a single one.

        sequences: of `window` bp each, as strings, base codes (L,) or (B, L) uint8 (A0 C1 G2 T3
        N4), or bases (4, L) or (B, 4, L) float in the order A C G T. strands: `reverse` is what
        the reverse complement says of the same bins, each track as its opposite strand; `both` is
        the mean. rows: of the tracks, default all. Raises UserError for another length, other
        letters, a species without tracks, a unit that is not known of it, or a prediction that is
        not finite.
        """
        self.require_unit(unit)
        batch, single = as_batch(sequences)
        if batch.shape[-1] != self.window:
            raise UserError(
                f"sequences of {batch.shape[-1]:,} bp: this model predicts from {self.window:,} "
                "bp; `embed` takes any length"
            )
        chosen = list(range(len(self.tracks)) if rows is None else rows)
        found = np.concatenate(
            [self._predict(part, unit, strands, chosen) for part in batch.split(self.batch_size)]
        )
        self.require_finite(found, "predictions")
        return found[0] if single else found

    def embed(
        self,
        sequences: str | Sequence[str] | np.ndarray | Tensor,
        layer: str = "pointwise",
        both_strands: bool = False,
    ) -> np.ndarray:
        """Features of sequences of one length: float32 (B, positions, channels), or without B.

        sequences: as of `predict`, of 1 bp or more. layer: see `Space.embed`. both_strands: the
        mean of both, that of the reverse complement turned round.
        """
        self.require_layer(layer)
        batch, single = as_batch(sequences)
        strands: Strands = "both" if both_strands else "forward"
        parts = batch.split(self.batch_size)
        found = np.concatenate([self._embed(part, layer, strands) for part in parts])
        self.require_finite(found, "features")
        return found[0] if single else found

    def mean_features(
        self, codes: np.ndarray, layer: str, strands: Strands, around: tuple[int, int]
    ) -> np.ndarray:
        """Features of windows, their mean over what touches a stretch: float32 (B, C).

        codes: (B, L) uint8 of `window` bp. around: the stretch, bp of the window from its start.
        """
        parts = []
        for batch in as_batch(codes)[0].split(self.batch_size):
            found = self._embed(batch, layer, strands)
            width = self.window // found.shape[1]  # bp of a position
            parts.append(found[:, around[0] // width : -(-around[1] // width)].mean(1))
        found = np.concatenate(parts)
        self.require_finite(found, "features")
        return found

    def base_log_probabilities(
        self, codes: np.ndarray, places: np.ndarray, strands: Strands, hide: bool
    ) -> np.ndarray:
        """Log probabilities, in nats, of A C G T at one base of each window: float32 (B, 4).

        codes: (B, L) uint8 of `window` bp. places: (B,) int64, of the bases in their windows.
        strands: `reverse` is what the reverse complement says of the same letters; `both` the mean.
        hide: let the model not see the base that is asked for. Raises UserError as `require_bases`.
        """
        self.require_bases()
        reverse = {"forward": (False,), "reverse": (True,), "both": (False, True)}[strands]
        parts = []
        for start in range(0, len(codes), self.batch_size):
            some = slice(start, start + self.batch_size)
            of_strands = [
                self._log_probabilities(codes[some], places[some], turned, hide)
                for turned in reverse
            ]
            parts.append(np.mean(of_strands, axis=0))
        found = np.concatenate(parts)
        self.require_finite(found, "probabilities of bases")
        return found

    def require_bases(self) -> HybridSpace:
        """The model, where it predicts hidden bases; UserError where it does not."""
        if not isinstance(self.model, HybridSpace):
            raise UserError(
                f"{self.trained.source}: holds no head of hidden bases, which likelihoods of bases "
                "come from; take a run or checkpoint of objective=profiles+bases, or its export "
                "made with --with-bases"
            )
        return self.model

    def require_layer(self, layer: str) -> None:
        """Raise UserError for a layer whose features `embed` cannot give."""
        if layer not in self.model.layers:
            raise UserError(f"layer {layer!r}: this model has {', '.join(self.model.layers)}")

    def require_finite(self, found: np.ndarray, what: str) -> None:
        """Raise UserError where a number that the model gave is infinite or NaN."""
        if not np.isfinite(found).all():
            raise UserError(
                f"{self.trained.source}: {what} are not finite; float16 may be too narrow for "
                "this model (--precision)"
            )

    def choose_tracks(self, words: Sequence[str]) -> list[int]:
        """Rows of the tracks that words ask for, ascending; of all where there are none.

        A word is an identifier, an assay, an index of the table, or a pattern with * and ? of
        identifiers and descriptions. Raises UserError with names near to a word that fits none.
        """
        return choose_tracks(self.tracks, words, str(self.trained.source))

    def require_unit(self, unit: Unit) -> None:
        """Raise UserError where predictions cannot be given in this unit."""
        if not self.tracks:
            raise UserError(f"species {self.species!r} of {self.trained.source} has no tracks")
        if unit == "means" and self._scale.name == "none":
            unknown = sum(math.isnan(track.mean) for track in self.tracks)
            if unknown:
                raise UserError(
                    f"{self.trained.source}: the means of {unknown} tracks of {self.species} are "
                    "not known; take unit stored"
                )
        if unit == "coverage" and self._transform not in TRANSFORMS:
            known = f"they were made as {self._transform!r}" if self._transform else "not recorded"
            raise UserError(
                f"{self.trained.source}: how the targets of {self.species} were made of coverage: "
                f"{known}; take unit stored or means"
            )

    @property
    def _transform(self) -> str | None:
        return self.trained.data_transforms.get(self.species)

    @torch.inference_mode()
    def _predict(self, batch: Tensor, unit: Unit, strands: Strands, rows: list[int]) -> np.ndarray:
        """Windows → (B, N, rows) in a unit."""
        scale, found = self._scale.to(self.device), []
        if strands != "reverse":
            found.append(scale.predicted_stored(self._forward(batch))[..., rows])
        if strands != "forward":
            # A track says of the reverse complement what its opposite strand stores.
            stored = scale.predicted_stored(self._forward(_flipped(batch))).flip(1)
            found.append(stored[..., self._strand_pair[rows]])
        in_unit = [self._in_unit(stored.cpu().numpy(), unit, rows) for stored in found]
        return in_unit[0] if len(in_unit) == 1 else (in_unit[0] + in_unit[1]) / 2

    def _forward(self, batch: Tensor) -> Tensor:
        return self.model({self.species: batch.to(self.device)}).prediction[self.species]

    def in_means(self, batch: Tensor) -> Tensor:
        """Windows (B, L) codes or (B, 4, L) bases → multiples of track means (B, N, T).

        Differentiable by bases; on the model's device.
        """
        return self._scale.to(self.device).predicted_in_means(self._forward(batch))

    @torch.inference_mode()
    def _embed(self, batch: Tensor, layer: str, strands: Strands) -> np.ndarray:
        """(B, positions, C); of the reverse strand turned round."""
        found = []
        if strands != "reverse":
            found.append(self.model.embed(batch.to(self.device), self.species, layer))
        if strands != "forward":
            flipped = _flipped(batch).to(self.device)
            found.append(self.model.embed(flipped, self.species, layer).flip(1))
        arrays = [features.float().cpu().numpy() for features in found]
        return arrays[0] if len(arrays) == 1 else (arrays[0] + arrays[1]) / 2

    @torch.inference_mode()
    def _log_probabilities(
        self, codes: np.ndarray, places: np.ndarray, reverse: bool, hide: bool
    ) -> np.ndarray:
        """(B, 4) of one strand, in the order of the forward strand's letters."""
        count, length = codes.shape
        if reverse:
            codes, places = reverse_complement(codes), length - 1 - places
        windows = np.arange(count)
        if hide:
            codes = codes.copy()
            codes[windows, places] = HIDDEN
        asked = torch.from_numpy(windows * length + places).to(self.device)
        batch = {self.species: torch.from_numpy(codes).to(self.device)}
        hidden = {self.species: Hidden(range(count), asked, count, 0)}
        output = self.require_bases()(batch, hidden)
        assert isinstance(output, HybridOutput)
        found = output.base_logits[self.species].log_softmax(1).cpu().numpy()
        return found[:, ::-1] if reverse else found

    def _in_unit(self, stored: np.ndarray, unit: Unit, rows: Sequence[int]) -> np.ndarray:
        """Stored values (B, N, rows) in a unit."""
        if unit == "means":
            return stored / self._scale.means.numpy()[list(rows)]
        if unit == "stored":
            return stored
        transform = TRANSFORMS[self._transform or ""]
        by_track = [
            transform.coverage(stored[..., i], self.tracks[row]) for i, row in enumerate(rows)
        ]
        return np.stack(by_track, axis=-1)


def as_batch(sequences: str | Sequence[str] | np.ndarray | Tensor) -> tuple[Tensor, bool]:
    """Sequences as a tensor (B, L) uint8 or (B, 4, L) float, and whether it was a single one.

    Raises UserError for letters that are no DNA, strings of several lengths, or other arrays.
    """
    if isinstance(sequences, str):
        return torch.from_numpy(encode(sequences)[None]), True
    if not isinstance(sequences, np.ndarray | Tensor):
        codes = [encode(text, f"sequence {i + 1}") for i, text in enumerate(sequences)]
        lengths = sorted({len(one) for one in codes})
        if len(lengths) != 1:
            found = f"{len(codes)} sequences" + (
                f" of {lengths[0]} to {lengths[-1]} bp" if lengths else ""
            )
            raise UserError(f"{found}: expected one length, and at least one sequence")
        return torch.from_numpy(np.stack(codes)), False
    array = torch.as_tensor(sequences)
    last = 2 if array.is_floating_point() else 1
    if array.ndim not in (last, last + 1) or (last == 2 and array.shape[-2] != 4):
        raise UserError(
            f"sequences {array.dtype} {tuple(array.shape)}: expected codes (L,) or (B, L) uint8, "
            "or bases (4, L) or (B, 4, L) float"
        )
    single = array.ndim == last
    return (array[None] if single else array), single


def _flipped(batch: Tensor) -> Tensor:
    """Reverse complements of codes (B, L) or bases (B, 4, L), of which A C G T are T G C A."""
    if batch.is_floating_point():
        return batch.flip(1, 2)
    return torch.from_numpy(reverse_complement(batch.clamp(max=N).cpu().numpy()))


def _one_species(trained: TrainedModel, species: str | None) -> str:
    known = trained.model.species
    if species is None and len(known) == 1:
        return known[0]
    if species is None:
        raise UserError(f"{trained.source} knows {', '.join(known)}: say which species is meant")
    if species not in known:
        raise UserError(f"{trained.source}: no species {species!r}{suggest(species, known)}")
    return species


def choose_tracks(tracks: Sequence[Track], words: Sequence[str], source: str) -> list[int]:
    """As `Predictor.choose_tracks`, of any tracks; `source` is named where a word fits none."""
    if not words:
        return list(range(len(tracks)))
    rows: set[int] = set()
    for word in words:
        found = [row for row, track in enumerate(tracks) if _fits(track, word)]
        if not found:
            names = [name for t in tracks for name in (t.identifier, t.assay)]
            raise UserError(f"{source}: no track {word!r}{suggest(word, dict.fromkeys(names))}")
        rows.update(found)
    return sorted(rows)


def _fits(track: Track, word: str) -> bool:
    if word in (track.identifier, track.assay, str(track.index)):
        return True
    is_pattern = any(sign in word for sign in "*?[")
    return is_pattern and any(
        fnmatchcase(text, word) for text in (track.identifier, track.description)
    )
