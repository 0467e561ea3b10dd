"""SPACE in plain PyTorch: nothing here knows of processes, files of data, or DeepSpeed."""

from spacescale.model.space import Space, SpaceOutput

__all__ = ["Space", "SpaceOutput"]
