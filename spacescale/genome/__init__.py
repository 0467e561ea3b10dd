"""Genomes and signal tracks as files: bases, contigs, coverage, targets tables. NumPy only."""
