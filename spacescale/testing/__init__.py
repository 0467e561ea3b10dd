"""What tests and the demo share: simulated genomes whose regulatory grammar is known."""
