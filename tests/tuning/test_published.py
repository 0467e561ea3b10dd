"""Published values beside a table, and whether they are of the same sequences."""

import json
from dataclasses import replace

from small_tasks import motif_task

from spacescale.tuning.published import VALUES, published


def test_every_value_is_a_share_and_every_task_is_there_once():
    rows = json.loads(VALUES.read_text())
    names = [(row["suite"], row["task"]) for row in rows]
    assert len(names) == len(set(names)) == 45
    values = [row[key] for row in rows for key in ("space", "best_other") if row[key] is not None]
    assert all(0.4 < value < 1 for value in values)


def test_other_sizes_are_told():
    task = replace(motif_task(sizes=(4000, 613, 613)), name="prom_core_tata", layout="tables")
    known = published(task)
    assert known is not None
    text = known.in_words(task)
    assert "published (GUE), mcc: SPACE 0.792, best of its rivals 0.781" in text
    assert text.endswith("the suite has 4,904 train sequences, here are 4,000")
    assert published(replace(task, name="mine")) is None
    assert published(replace(task, layout="fasta")) is None
