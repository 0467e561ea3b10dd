"""Training sets of others as species datasets: Basenji's TFRecords, SPACE's HDF5.

A source (`source.py`) yields records in its own order; `import_dataset.py` checks them, puts them
in genome order and writes a normal species dataset.
"""
