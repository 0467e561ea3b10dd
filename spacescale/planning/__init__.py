"""What a configuration costs before it is run: parameters, arithmetic, memory, bytes sent, time."""
