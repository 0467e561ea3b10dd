"""A training run: assembled from data, model, engine and checkpoints; its loop, schedule,
validation and stop signals.
"""
