"""What all of our models are for transformers: loaded strictly, and proved before they are used.

In an exported folder this stands between the package's own model code and that of the model.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.hub import cached_file

from spacescale.model.proof_file import PROOF_FILE

logger = logging.getLogger(__name__)


class ProvedModel(PreTrainedModel):
    """Loads weights strictly, and has them proved before they are used.

    The exported module is the attribute of the name `base_model_prefix`.
    """

    _proof: Path | None = None  # what is still to be proved
    _source: tuple[Any, dict[str, Any]] | None = None  # what was loaded, and how it is found

    def disproved(self, question: dict[str, str], stored: dict[str, Tensor]) -> str:
        """How what the model answers differs from what is stored, "" where it does not.

        question: the proof's metadata. The model is asked as it is, in evaluation mode.
        """
        raise NotImplementedError

    def file_of(self, name: str) -> str | None:
        """Path of a file of the folder that was loaded, or of its copy; None where it has none."""
        if self._source is None:
            return None
        source, where = self._source
        return cached_file(source, name, _raise_exceptions_for_missing_entries=False, **where)

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: every module initialises its weights where it is made, and a model whose
        file lacks some is refused."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, prove: bool = True, **options: Any
    ) -> Any:
        """As of every transformers model; raises ValueError where weights are missing, left over or
        cannot be read.

        prove: have the model answer the question of `proof.safetensors`; RuntimeError if the answer
        is not the one that was exported. Heads that are new, as of a classifier, may be missing.
        """
        asked_for_info = options.pop("output_loading_info", False)
        try:
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **options
            )
        except SafetensorError as error:
            raise _unreadable(pretrained_model_name_or_path, error) from None
        model, info = loaded
        wrong = {
            kind: sorted(map(str, info.get(kind) or ()))
            for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        }
        wrong["missing_keys"] = [k for k in wrong["missing_keys"] if not model.is_new(k)]
        if any(wrong.values()):
            found = "; ".join(
                f"{kind}: {', '.join(keys[:5])}" for kind, keys in wrong.items() if keys
            )
            raise ValueError(
                f"{pretrained_model_name_or_path}: not the weights of this model: {found}"
            )
        where = ("cache_dir", "revision", "token", "local_files_only", "subfolder")
        found_by = {name: options[name] for name in where if name in options}
        model._source = pretrained_model_name_or_path, found_by
        if prove:
            proof = model.file_of(PROOF_FILE)
            if proof is None:
                logger.warning("%s holds no proof of its weights", pretrained_model_name_or_path)
            else:
                model._proof = Path(proof)
        if model.device.type != "meta":  # else weights come when it is used
            model.prove()
        return (model, info) if asked_for_info else model

    def save_pretrained(self, save_directory: Any, *args: Any, **options: Any) -> None:
        """As of every transformers model; a proof that lies there is that of other weights."""
        super().save_pretrained(save_directory, *args, **options)
        (Path(save_directory) / PROOF_FILE).unlink(missing_ok=True)

    def is_new(self, key: str) -> bool:
        """Whether a weight is none of those that were exported."""
        prefix = self.base_model_prefix
        exported = getattr(self, prefix).named_children()
        return key.removeprefix(f"{prefix}.").split(".")[0] not in {name for name, _ in exported}

    def prove(self) -> None:
        """Raise RuntimeError unless the model answers as it did when it was exported."""
        if self._proof is None:
            return
        try:
            with safe_open(str(self._proof), "pt") as file:
                question = file.metadata()
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise _unreadable(self._proof.parent, error) from None
        wrong = self.disproved(question, stored)
        code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
        if self.config.code_sha256 not in (None, code) and wrong:
            wrong += f"; and {Path(__file__).name} is not the one that was exported"
        if wrong:
            raise RuntimeError(
                f"{self._proof.parent}: this model does not compute what it did when it was "
                f"exported: {wrong}. from_pretrained(…, prove=False) switches this check off"
            )
        self._proof = None


def _unreadable(where: Any, error: SafetensorError) -> ValueError:
    """Which of a folder's files is not whole, which the library does not say."""
    for path in sorted(Path(where).glob("*.safetensors")):
        try:
            with safe_open(str(path), "pt"):
                pass
        except SafetensorError:
            where = path
            break
    return ValueError(f"{where}: damaged, or not downloaded as a whole: {error}")
