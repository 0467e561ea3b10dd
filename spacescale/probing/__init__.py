"""Frozen features of a trained model, and what small heads learn from them."""
