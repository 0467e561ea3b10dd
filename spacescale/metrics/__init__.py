"""What is measured during training and evaluation, as sums that add up over ranks, and the logs it
is written to.
"""
