"""Files that are there whole or not at all."""

from collections.abc import Callable
from pathlib import Path

import pytest

from shared import files


@pytest.mark.parametrize("write", [files.create, files.replace])
def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, write: Callable[..., None]) -> None:
    with pytest.raises(OSError):  # as a full disk or a refused fchown would: the draft is open by then
        write(tmp_path / "key", b"secret", like=tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [files.create, files.replace])
def test_a_file_that_cannot_take_its_place_leaves_nothing_behind(tmp_path: Path, write: Callable[..., None]) -> None:
    taken = tmp_path / "key"
    taken.mkdir()
    with pytest.raises(OSError):
        write(taken, b"secret")
    assert list(tmp_path.iterdir()) == [taken]


@pytest.mark.parametrize("write", [files.create, files.replace])
def test_a_file_is_written_for_its_owner_alone(tmp_path: Path, write: Callable[..., None]) -> None:
    write(tmp_path / "key", b"secret")
    (made,) = tmp_path.iterdir()
    assert (made.name, made.read_bytes(), made.stat().st_mode & 0o777) == ("key", b"secret", 0o600)
