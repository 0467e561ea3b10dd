"""Tasks with a label per sequence: their files, how they are scored, what simple models reach."""
