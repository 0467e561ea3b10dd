"""Processes: launching, meeting, collectives, watching; experts and BatchNorm over them; the door
to DeepSpeed.
"""
