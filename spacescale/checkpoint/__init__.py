"""Saving, resuming and converting whole training states. README.md states the folder layout."""
