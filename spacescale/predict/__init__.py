"""Use a trained model: on sequences, on regions of a genome."""
