"""Arms trained side by side with several seeds, and what one is worth beside the other."""
