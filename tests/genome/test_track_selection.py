import pytest

from spacescale.errors import UserError
from spacescale.genome.track_selection import track_names


def test_names_in_a_list_or_a_file(tmp_path):
    assert track_names("A, 3 ,B,") == ("A", "3", "B")
    path = tmp_path / "tracks.txt"
    path.write_bytes('"A, 1"\r\n\r\n B \r\n5" deep\r\n'.encode("utf-16"))
    assert track_names(f"@{path}") == ("A, 1", "B", '5" deep')


def test_a_file_that_names_nothing_or_is_not_utf8(tmp_path):
    path = tmp_path / "tracks.txt"
    path.write_text("\n")
    with pytest.raises(UserError, match=r"tracks.txt names no track"):
        track_names(f"@{path}")
    path.write_bytes(b"A\nB\xb5\n")
    with pytest.raises(UserError, match=r"tracks.txt:2: not UTF-8"):
        track_names(f"@{path}")
