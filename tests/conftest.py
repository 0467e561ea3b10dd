"""One thread for each test process and what it starts: such small work only waits for more."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch and NumPy when they are imported
