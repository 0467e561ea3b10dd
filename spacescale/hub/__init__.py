"""Weights that anyone can load: a folder for the Hub, which needs nothing of ours to be used."""
