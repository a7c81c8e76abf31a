"""Files that are whole or not there, whatever happens while they are written."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SHOWN = 50  # characters of a file's name in its temporary one, which may be no longer than the file system allows


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to, which becomes ``path`` once the block has ended well.

    No two writers share one; it is hidden and ends in ``.partial``, so a writer that goes by a name's ending needs to
    be told the format. The folder has to be there. Where the block or the renaming fails an earlier ``path`` stays as
    it was; an OSError that names no file, as a full disk's, names ``path``. A symbolic link stays one: the file that
    it leads to is replaced.
    """
    path = Path(os.path.realpath(path))
    partial = path.with_name(f".{path.name[:SHOWN]}.{secrets.token_hex(8)}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        if error.errno and error.filename in (None, str(partial)):
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):  # it has been renamed, or the folder is gone or read-only
            partial.unlink(missing_ok=True)
