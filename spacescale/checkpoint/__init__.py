"""Saving, resuming and exporting a run's state, whatever layout of processes wrote it; weights of
other codes in and out. README.md describes the folders.
"""
