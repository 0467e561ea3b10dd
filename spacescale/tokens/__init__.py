"""Bases as tokens for a masked language model, as Genomics-FM reads them.

`bpe`: words of any length, learnt from genomes. `kmers`: overlapping words of one length.
`vocabulary`: the ids of one of them or of both together, told apart by a prompt; the file that says
so. `masking`: which tokens are hidden, and what stands there instead.

Codes of bases become ids of tokens, and those a row: `[CLS] [BPE]` or `[CLS] [KMER]`, tokens,
`[SEP]`. The reverse complement is taken of bases, before they become tokens: few words of BPE have
theirs in the vocabulary. All of it is numpy and pure functions of seeds; only `bpe` needs the
extra `tokens`.
"""
