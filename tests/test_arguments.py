import argparse

import pytest

from spacescale.arguments import given_path, listed_names, named_paths, path_option
from spacescale.errors import UserError


def test_blanks_after_commas_are_no_part_of_a_name():
    assert listed_names("chr2, chr9 ,,chr 3,") == ("chr2", "chr9", "chr 3")


@pytest.mark.parametrize(
    "url", ["https://a.org/x.bw", "s3://b/x", "gs://b/x", "ftp://a/x", "https:/a.org/x.bw"]
)
def test_urls_are_named(url):
    with pytest.raises(UserError, match=r"is a URL; .* download it first"):
        given_path(url)
    with pytest.raises(argparse.ArgumentTypeError, match="is a URL"):
        path_option(url)
    with pytest.raises(UserError, match="is a URL"):
        named_paths("--genome", [f"human={url}"])


def test_the_home_folder_is_known(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert given_path("~/x.bw") == tmp_path / "x.bw"
    assert str(given_path("C:/x.bw")) == "C:/x.bw"
