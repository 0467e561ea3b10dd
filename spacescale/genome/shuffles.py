"""Random sequences that keep the dinucleotides of a given one."""

from __future__ import annotations

import numpy as np

from spacescale.genome.dna import N


def dinucleotide_shuffle(codes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A sequence with the same first and last base and as many of each dinucleotide, uint8 (L,).

    All such sequences are equally likely (Altschul and Erickson 1985): a random way through the
    graph of bases that uses each step of the sequence once. N counts as a fifth base.
    """
    if len(codes) < 3:
        return codes.copy()
    followers = [codes[1:][codes[:-1] == base] for base in range(N + 1)]
    for base, last in _last_steps(followers, int(codes[-1]), random).items():
        found = random.permutation(np.delete(followers[base], last))
        followers[base] = np.append(found, followers[base][last])
    return _walk([one.tolist() for one in followers], int(codes[0]), len(codes))


def _last_steps(
    followers: list[np.ndarray], end: int, random: np.random.Generator
) -> dict[int, int]:
    """Which follower of each base is taken last, so that from every base a way leads to the end."""
    while True:
        last = {
            base: int(random.integers(len(found)))
            for base, found in enumerate(followers)
            if len(found)
        }
        steps = {base: int(followers[base][which]) for base, which in last.items() if base != end}
        if all(_arrives(base, end, steps) for base in steps):
            return last


def _arrives(base: int, end: int, steps: dict[int, int]) -> bool:
    for _ in range(len(steps)):
        base = steps.get(base, end)
        if base == end:
            return True
    return False


def _walk(followers: list[list[int]], first: int, length: int) -> np.ndarray:
    for found in followers:
        found.reverse()  # pop() then takes them in order
    found = np.empty(length, dtype=np.uint8)
    found[0] = base = first
    for i in range(1, length):
        found[i] = base = followers[base].pop()
    return found
