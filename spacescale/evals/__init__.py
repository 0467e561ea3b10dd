"""What a trained model is worth on held-out windows, as scores, tables and figures; and what a run,
checkpoint, export or data set holds (`info`).
"""
