"""SPACE in plain PyTorch: nothing here knows of processes, files of data, or DeepSpeed."""

from spacescale.model.extend import add_species
from spacescale.model.space import Space, SpaceOutput

__all__ = ["Space", "SpaceOutput", "add_species"]
