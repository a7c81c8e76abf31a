import errno
import os
import stat
from contextlib import ExitStack
from pathlib import Path

import pytest

from interpretability.whole_files import whole_file


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("bad values"), KeyboardInterrupt()])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(type(error)) as raised, whole_file(path) as partial:
        partial.write_text("half")
        assert partial.parent == tmp_path and partial.name.startswith(".") and partial.suffix == ".partial"
        raise error
    assert raised.value is error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_new_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "table.csv"
    with whole_file(path) as partial, partial.open("w") as file:
        file.write("first, ")
        assert not path.exists()
        file.write("second")
    assert path.read_text() == "first, second"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("last", [0, 1])
def test_writers_of_one_path_each_end_whole(tmp_path, last):
    path, stacks, files = tmp_path / "table.csv", (ExitStack(), ExitStack()), []
    for stack in stacks:
        files.append(stack.enter_context(stack.enter_context(whole_file(path)).open("w")))
    for _ in range(3):
        for text, file in zip("ab", files):
            file.write(text)
            file.flush()
    for writer in (1 - last, last):
        stacks[writer].close()
        assert path.read_text() == "ab"[writer] * 3
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_without_a_name_or_about_the_temporary_file_gets_the_path(tmp_path):
    path = tmp_path / "table.csv"
    with pytest.raises(OSError, match="No space left") as error, whole_file(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert error.value.filename == str(path)
    path.mkdir()
    with pytest.raises(IsADirectoryError) as error, whole_file(path) as partial:
        partial.write_text("new")
    assert error.value.filename == str(path)
    with pytest.raises(FileNotFoundError) as error, whole_file(tmp_path / "absent" / "table.csv") as partial:
        partial.write_text("new")
    assert error.value.filename == str(tmp_path / "absent" / "table.csv") and not (tmp_path / "absent").exists()
    with pytest.raises(FileNotFoundError) as error, whole_file(tmp_path / "b.csv"):
        (tmp_path / "another").read_text()
    assert error.value.filename == str(tmp_path / "another")


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_permissions_follow_the_umask(tmp_path, mask):
    path, before = tmp_path / "table.csv", os.umask(mask)
    try:
        with whole_file(path) as partial:
            partial.write_text("new")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("letter", ["n", "ñ", "数"])
def test_a_name_as_long_as_the_file_system_allows(tmp_path, letter):
    path = tmp_path / (letter * (255 // len(letter.encode())))
    with whole_file(path) as partial:
        partial.write_text("new")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_a_link(tmp_path, there):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    if there:
        target.write_text("old")
    link.symlink_to(Path("elsewhere") / "target")
    with whole_file(link) as partial:
        partial.write_text("new")
    assert link.is_symlink() and target.read_text() == "new"
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["target"]
