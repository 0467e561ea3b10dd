"""Ranks that cannot meet say why; here they are threads of one process."""

import os
import socket
import threading
from dataclasses import replace

import pytest

from spacescale.errors import UserError
from spacescale.parallel import meeting
from spacescale.parallel.comm import NotMet, free_port
from spacescale.parallel.meeting import Meeting, of_other_runs


@pytest.fixture
def rank(monkeypatch):
    """Make the meeting of a rank, all of them at one port."""
    for name in ("SLURM_STEP_ID", "CROSS_RANK", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)
    port = free_port()

    def make(number, size, limit_s=20.0, port=port):
        env = {"RANK": number, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in env.items():
            monkeypatch.setenv(name, str(value))
        made = Meeting("RANK, WORLD_SIZE from the test", limit_s)
        made.card = replace(made.card, pid=10 + len(cards))  # all are one process in truth
        cards.append(made.card)
        return made

    cards = []
    return make


def test_one_process_takes_a_port_that_the_system_finds(rank):
    store = rank(0, 1, port=0).run()
    assert store.check(["missing"]) is False
    assert os.environ["MASTER_PORT"] == "0"  # a later run in this process finds one of its own
    later = Meeting("RANK, WORLD_SIZE of the run before", 20.0).run()
    later.set("key", "of the later run")
    assert store.check(["key"]) is False


def outcomes(*ranks):
    """What each rank came to, in the order given: None, or its error."""
    found = [None] * len(ranks)

    def run(place, one):
        try:
            stores.append(one.run())
        except UserError as error:
            found[place] = error

    stores = []
    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def test_all_meet(rank):
    assert outcomes(*(rank(number, 3) for number in range(3))) == [None] * 3


def test_who_is_missing_is_said_while_waiting_and_at_the_end(rank, monkeypatch, capsys):
    for name in ("FIRST_REPORT_S", "REPORT_EVERY_S"):
        monkeypatch.setattr(meeting, name, 0.2)
    host, other = rank(0, 4), rank(2, 4, limit_s=60.0)
    count_missing = host._missing

    def give_up_next(store):
        """Once the other has come, however long that takes."""
        text = count_missing(store)
        host.limit_s = 0.0 if text.startswith("2 of 4") else host.limit_s
        return text

    monkeypatch.setattr(host, "_missing", give_up_next)
    first, second = outcomes(host, other)
    missing = r"waiting for 2 of 4 processes at 127.0.0.1:\d+: ranks 1, 3 \(RANK, .* from the test"
    assert isinstance(first, NotMet) and first.args == second.args
    assert not isinstance(second, NotMet)  # it was told, and need not say it again
    with pytest.raises(NotMet, match=rf"gave up {missing}.*start_timeout_s.*unset RANK"):
        raise first
    assert "rank 0: waiting for 2 of 4" in capsys.readouterr().err


def test_a_store_that_is_not_there_is_named(rank):
    (error,) = outcomes(rank(1, 2, limit_s=0.5))
    with pytest.raises(NotMet, match=r"rank 0 at 127.0.0.1:\d+, which does not answer"):
        raise error


def test_a_taken_port_is_one_line_with_the_cure(rank):
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        errors = outcomes(rank(0, 2, port=port), rank(1, 2, 1.0, port=port))
    with pytest.raises(NotMet, match=rf"^port {port} is taken .*deepspeed --master_port N"):
        raise errors[0]
    with pytest.raises(NotMet, match="where something else listens"):
        raise errors[1]


def test_two_ranks_of_one_number_are_named_and_end_all(rank):
    errors = outcomes(rank(0, 3), rank(1, 3), rank(1, 3))
    assert all("have the same RANK" in str(error) for error in errors)
    assert sum(isinstance(error, NotMet) for error in errors) == 1


def test_ranks_that_disagree_on_the_size_are_named(rank):
    first, second = outcomes(rank(0, 2), rank(1, 3))
    assert "rank 1 of 3" in str(first) and "rank 0 of 2" in str(first)
    assert "disagree on WORLD_SIZE" in str(second) and isinstance(second, NotMet)


def test_a_complete_run_is_not_ended_by_a_stranger(rank):
    host = rank(0, 1)
    store = host.run()
    (error,) = outcomes(rank(1, 2))
    assert "disagree on WORLD_SIZE" in str(error)
    assert not store.check(["end"])


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        (None, None, False),  # by hand: nothing tells
        (["n1 node 0", "launcher 5"], ["n1 node 0", "launcher 6"], True),
        (["n1 node 0", "launcher 5"], ["n2 node 1", "launcher 6"], False),
        (["Slurm", "17"], ["Slurm", "18"], True),
        (["Slurm", "17"], ["n1 node 0", "launcher 6"], False),
    ],
)
def test_runs_are_told_apart_where_the_launcher_tells(rank, one, other, apart):
    cards = [replace(rank(number, 2).card, run=run) for number, run in enumerate((one, other))]
    assert of_other_runs(*cards) is apart
