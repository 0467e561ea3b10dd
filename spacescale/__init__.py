"""Pretrain sequence-to-function DNA models at scale: from genomes to exported weights."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spacescale.predict.predictor import Predictor

__all__ = ["Predictor", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load `Predictor`, and PyTorch with it, when it is first asked for."""
    if name == "Predictor":
        from spacescale.predict.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
