"""Processes: launching, collectives, expert parallelism, and the door to DeepSpeed."""
