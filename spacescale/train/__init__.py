"""The training loop: schedule, validation, trainer."""
