"""What is written is on the disk, and what the manifest will say of it."""

import os

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from spacescale.checkpoint.writing import CHUNK, HostCopy, Written, save_tensors
from spacescale.errors import UserError
from spacescale.files import sha256

# Of different sizes: among dtypes of one size the library has an order of its own.
DTYPES = [torch.float32, torch.int64, torch.int16, torch.bool]


@given(
    st.dictionaries(
        st.text(st.characters(categories=["L", "N", "P"]), min_size=1),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3)),
        max_size=5,
    )
)
def test_the_files_are_those_that_the_library_writes(tmp_path_factory, tensors):
    generator = torch.Generator().manual_seed(1)
    made = {
        name: torch.randint(0, 2, shape, generator=generator).to(dtype)
        for name, (dtype, shape) in tensors.items()
    }
    path = tmp_path_factory.mktemp("written") / "file.safetensors"
    written = save_tensors(made, path)
    assert path.read_bytes() == safetensors.torch.save(made)
    assert written == Written(path.stat().st_size, sha256(path))


def test_slices_and_files_of_several_chunks_come_back(tmp_path):
    whole = torch.arange(CHUNK, dtype=torch.float32).reshape(2, -1)
    tensors = {"slice": whole[1, 3:-5], "turned": whole.T, "whole": whole}
    save_tensors(tensors, tmp_path / "file.safetensors")
    found = safetensors.torch.load_file(tmp_path / "file.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_written(tmp_path, bad):
    with pytest.raises(UserError, match=r"file\.safetensors: b is not finite"):
        save_tensors(
            {"a": torch.ones(2), "b": torch.tensor([1, bad])}, tmp_path / "file.safetensors"
        )
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_text("precious")
    with pytest.raises(UserError, match="cannot be written: File exists"):
        save_tensors({"a": torch.ones(2)}, path)
    assert path.read_text() == "precious"


def flip(content: bytearray) -> None:
    content[-1] ^= 1


def cut(content: bytearray) -> None:
    del content[-1]


def lengthen(content: bytearray) -> None:
    content += b"x"


@pytest.mark.parametrize("change", [flip, cut, lengthen])
def test_a_disk_that_gives_back_something_else_is_found(tmp_path, monkeypatch, change):
    path, sync = tmp_path / "file.safetensors", os.fsync

    def damage(descriptor):
        sync(descriptor)
        content = bytearray(path.read_bytes())
        change(content)
        path.write_bytes(content)

    monkeypatch.setattr(os, "fsync", damage)
    with pytest.raises(UserError, match=r"file\.safetensors: (read back from|longer on) the disk"):
        save_tensors({"a": torch.ones(300)}, path)


def test_a_copy_stays_and_uses_the_same_memory_again():
    weights = {"a": torch.ones(5), "b": torch.full((3,), 2.0)}
    memory = HostCopy(8, pinned=False)
    first = memory.take(weights)
    for tensor in weights.values():
        tensor += 1
    assert first["a"].tolist() == [1] * 5 and first["b"].tolist() == [2] * 3
    second = memory.take(weights)
    assert second["b"].tolist() == [3] * 3
    assert second["a"].data_ptr() == first["a"].data_ptr()
