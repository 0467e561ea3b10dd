"""Is a species dataset sound: every file, window, base and target."""
