"""Genomes and tracks, or training sets of other tools, made into species datasets."""
