"""Reports of what was seen: of these sequences, and of these weights."""

from dataclasses import replace

import numpy as np
import pytest
from small_tasks import motif_task

from spacescale.contamination.sequences import digest_of
from spacescale.contamination.verdicts import DEFAULT_LIMITS, Limits
from spacescale.errors import UserError
from spacescale.tuning import seen as seen_module
from spacescale.tuning.seen import read_seen, seen_of

TASK = motif_task(sizes=(4, 4, 6))
VERDICTS = ["same", "similar", "none", "part", "validation", "too short"]
DIGESTS = {"runs/four": "4444", "exports/four": "4444", "runs/two": "2222", "released": None}


def report(path, weights=("four/step-00000003", "4444"), gaps=("", ""), limits=DEFAULT_LIMITS):
    test = TASK.splits["test"]
    columns = (
        "sequence_digest",
        "weights",
        "weights_digest",
        "not_searched",
        "not_known",
        "limits",
    )
    rows = [("task", "split", "sequence", "verdict", *columns)]
    for name, codes, verdict in zip(test.names, test.codes, VERDICTS, strict=True):
        rows.append(
            (TASK.name, "test", name, verdict, digest_of(codes), *weights, *gaps, limits.in_words())
        )
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return path


@pytest.fixture(autouse=True)
def made_up_weights(monkeypatch):
    monkeypatch.setattr(seen_module, "local_folder", str)
    monkeypatch.setattr(seen_module, "digest_of_weights", DIGESTS.__getitem__)


def test_a_report_of_these_sequences_is_read(tmp_path, caplog):
    path = report(tmp_path / "r.tsv")
    seen = seen_of(TASK, read_seen(path), path)
    assert seen.unseen.tolist() == [2] and not caplog.records
    assert seen.in_words().startswith("pretraining of four/step-00000003 has seen 2 of 6 test")


def test_what_was_not_searched_does_not_count_as_not_seen(tmp_path):
    path = report(tmp_path / "r.tsv", gaps=("human, mouse", "whether these are its windows"))
    seen = seen_of(TASK, read_seen(path), path)
    assert seen.unseen.size == 0 and seen.share == pytest.approx(2 / 6)
    assert seen.in_words().startswith(
        "pretraining of four/step-00000003 has seen at least 2 of 6 test sequences (33.3%): 1 the "
        "same, 1 similar; windows of human, mouse not searched, so that the others may have been "
        "seen, too, and none counts as not seen; not known: whether these are its windows; 1 are "
        "alike in part, or less alike, and count as neither; 1 are too short"
    )


def test_what_is_not_known_is_told_beside_the_numbers(tmp_path):
    path = report(tmp_path / "r.tsv", gaps=("", "whether these are its windows"))
    seen = seen_of(TASK, read_seen(path), path)
    assert seen.unseen.tolist() == [2] and "has seen 2 of 6" in seen.in_words()
    assert "; not known: whether these are its windows; " in seen.in_words()


def test_other_limits_are_told_beside_the_numbers(tmp_path):
    path = report(tmp_path / "r.tsv", limits=Limits(identity=1.0, cover=1.0))
    words = seen_of(TASK, read_seen(path), path).in_words()
    assert "1 similar (the report counts from an identity of 1 over 1 of a sequence on)" in words
    path = report(tmp_path / "default.tsv")
    assert "the report counts" not in seen_of(TASK, read_seen(path), path).in_words()


def test_a_report_of_an_earlier_version_does_not_tell_what_was_searched(tmp_path, caplog):
    path = report(tmp_path / "r.tsv")
    lines = [line.split("\t")[:7] for line in path.read_text().splitlines()]
    path.write_text("".join("\t".join(line) + "\n" for line in lines))
    seen = seen_of(TASK, read_seen(path, "runs/four"), path)
    assert seen.unseen.tolist() == [2]
    assert "; not known: whether all that it read was searched" in seen.in_words()
    assert "r.tsv: does not tell what was not searched" in caplog.text


def test_a_report_of_other_sequences_of_the_same_names_is_refused(tmp_path):
    path = report(tmp_path / "r.tsv")
    test = TASK.splits["test"]
    codes = [*test.codes[:4], test.codes[4][::-1], test.codes[5]]
    other = replace(TASK, splits=TASK.splits | {"test": replace(test, codes=codes)})
    message = rf"test sequence made up:5 was another one \({digest_of(test.codes[4])}, expected "
    with pytest.raises(UserError, match=message):
        seen_of(other, read_seen(path), path)


def test_a_report_without_digests_is_warned_of(tmp_path, caplog):
    path = report(tmp_path / "r.tsv")
    lines = [line.split("\t")[:4] for line in path.read_text().splitlines()]
    path.write_text("".join("\t".join(line) + "\n" for line in lines))
    seen = seen_of(TASK, read_seen(path, "runs/two"), path)
    assert seen.unseen.tolist() == [2] and seen.weights == ""
    assert "r.tsv: tells neither its sequences nor its weights" in caplog.text


def test_a_report_of_other_weights_is_refused(tmp_path):
    path = report(tmp_path / "r.tsv")
    for weights in ("runs/four", "exports/four", "released"):
        assert read_seen(path, weights).weights == "four/step-00000003"
    with pytest.raises(UserError, match=r"of the weights four/step-00000003, whose training or "
                       r"step is not that of runs/two; expected a report of `spacescale "
                       r"contamination runs/two`"):  # fmt: skip
        read_seen(path, "runs/two")
    report(path, weights=("four/step-00000003, after 9 steps", ""))
    assert read_seen(path, "runs/two").weights.endswith("after 9 steps")


def test_what_to_do_of_a_task_that_its_suite_calls_otherwise(tmp_path):
    path = report(tmp_path / "r.tsv")
    called = replace(TASK, name="a_same", path=tmp_path / "a" / "same")
    with pytest.raises(UserError, match=r"make it anew with --sequences and the folder of the su"):
        seen_of(called, read_seen(path), path)
    called = replace(TASK, name="same", path=tmp_path / "a" / "same")
    with pytest.raises(UserError, match=r"make it anew with --sequences .*a/same$"):
        seen_of(called, read_seen(path), path)


def test_digests_are_of_bases_in_their_order():
    codes = np.arange(4, dtype=np.uint8)
    assert digest_of(codes) == digest_of(codes.astype(np.int64)) != digest_of(codes[::-1])
    assert len(digest_of(codes)) == 12
