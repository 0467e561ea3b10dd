"""Pretrain sequence-to-function DNA models at scale: from genomes to exported weights."""

__version__ = "0.1.0"
