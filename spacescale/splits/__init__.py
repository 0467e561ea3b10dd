"""Which stretch of which genome trains, validates or tests, and what leaks between them."""
