"""What tests and the demo share: simulated genomes whose regulatory grammar is known, the embedded
data sets made of them, processes of a test.
"""
