"""Which sequences of a benchmark a model has seen in training, or something like them."""
