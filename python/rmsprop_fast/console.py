"""What the commands share: a stdout that may be gone, files that may not be written, numbers on the command line."""

from __future__ import annotations

import argparse
import io
import os
import sys
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rmsprop_fast.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def stdout() -> Iterator[None]:
    """Around whatever prints: when stdout cannot be written, the command ends with exit code 1 and no traceback.

    Quietly when the reader of a pipe has gone, as Python's documentation recommends and rich does by itself; otherwise,
    as on a full disk, after a line on stderr. Characters that its encoding lacks are escaped, as on stderr.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
        print(end="", flush=True)  # or the error would come at exit
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left, which is flushed at exit
        if not isinstance(error, BrokenPipeError):
            print(f"rmsprop-fast: stdout: {error.strerror}", file=sys.stderr)
        raise SystemExit(1) from None


def at_least(least: int) -> Callable[[str], int]:
    """Return a type of argparse's arguments: whole numbers of at least this."""

    def convert(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
        return int(text)

    return convert


def require_folder(option: str, path: Path | None) -> None:
    """Raise, before any work, when an option names a folder, or a file in no folder."""
    if path and not path.parent.is_dir():
        raise InputError(f"{option}: expected a file in an existing folder, got {path}")
    if path and path.is_dir():
        raise InputError(f"{option}: expected a file, got the folder {path}")


def write_file(option: str, write: Callable[[], object]) -> None:
    """Write the file that an option names; when that fails, raise an InputError that names it."""
    try:
        write()
    except (OSError, ValueError) as error:  # a folder that is not writeable, a format that is not known
        raise InputError(f"{option}: {' '.join(str(error).split())}") from None
    except zlib.error as error:  # matplotlib tidies up a PDF that did not fit on the disk, and fails again
        raise InputError(f"{option}: {error.__context__}") from None
