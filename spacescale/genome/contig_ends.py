"""Intervals past the end of their contig: where they still count, and where they tell a mistake.

Binned tracks end in a whole bin, and reads are extended to the length of their fragments; so files
of the right assembly hold intervals that end, or even begin, a little past the end of a contig.
What lies past it is left out, and counted.
"""

from collections.abc import Mapping

import numpy as np

from spacescale.genome.aliases import shorten

# A fragment is at most about this long. What begins further out belongs to another assembly.
MAX_START_PAST_END_BP = 1000


def describe_past_end(past_end: Mapping[str, np.ndarray]) -> str:
    """Say, after "FILE", what it has past the ends of contigs; "" for nothing.

    past_end: {contig: how far past its end each of these intervals ends, in bp}.
    """
    furthest = {name: int(found.max()) for name, found in past_end.items() if found.size}
    if not furthest:
        return ""
    number = sum(found.size for found in past_end.values())
    name = max(furthest, key=lambda name: furthest[name])
    far = furthest[name] > MAX_START_PAST_END_BP
    return (
        f"has {number:,} interval{'s' * (number > 1)} past the end of {shorten(furthest)}, the "
        f"furthest by {furthest[name]:,} bp on {name}: cut there"
        + "; made for another assembly?"
        * far
    )
