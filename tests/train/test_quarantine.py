from unittest.mock import create_autospec

import pytest

from spacescale.dataset.batch import Replaced
from spacescale.dataset.reader import SpeciesData
from spacescale.errors import UserError
from spacescale.train.quarantine import HEADER, REPORT, Quarantine


def datasets(windows: int) -> dict:
    moth = create_autospec(SpeciesData, instance=True)
    moth.rows.return_value = range(windows)
    moth.place.side_effect = lambda row: f"chr1:{row}-{row + 1}"
    return {"moth": moth}


def one(row: int) -> Replaced:
    return Replaced("moth", row, row + 1, f"targets/c/0: row {row} is\tdamaged\nsomehow")


def test_each_damaged_window_is_told_and_listed_once(tmp_path):
    quarantine = Quarantine(tmp_path, datasets(5000))
    assert quarantine.add([one(3), one(3)]) == [one(3).reason + "; replaced by row 4"]
    again = Quarantine(tmp_path, datasets(5000))  # after a restart
    assert again.add([one(3)]) == []
    assert len(again.add([one(3), one(7)])) == 1
    assert (tmp_path / REPORT).read_text().splitlines() == [
        HEADER,
        "moth\t3\tchr1:3-4\tchr1:4-5\ttargets/c/0: row 3 is damaged somehow",
        "moth\t7\tchr1:7-8\tchr1:8-9\ttargets/c/0: row 7 is damaged somehow",
    ]


def test_too_many_end_the_run(tmp_path):
    quarantine = Quarantine(tmp_path, datasets(2500))
    quarantine.add([one(1), one(2)])
    with pytest.raises(UserError, match=r"3 damaged windows, listed in .*bears 2 \(0.1%"):
        quarantine.add([one(9)])


def test_another_file_of_that_name_is_refused(tmp_path):
    (tmp_path / REPORT).write_text("mine\n")
    with pytest.raises(UserError, match=r"quarantine\.tsv: expected the header"):
        Quarantine(tmp_path, datasets(1))
