# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or not there: written beside, brought to the disk, renamed; and read only if they are files.

Every call that changes something goes through ``os``, so that a fault can be put into each of them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from unified.contracts.errors import CheckpointError

NEW: Final = ".new-"  # what begins so is not finished, or no longer needed, and may be removed
CHUNK: Final = 8 << 20  # bytes: hashed, then written; larger blocks fall out of the processor's cache

Piece = bytes | bytearray | memoryview


def sync(folder: Path) -> None:
    """Brings a folder's list of names to the disk: a rename is only then sure to outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, each of them noted on the disk in the one above."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):  # another process was faster
        os.mkdir(folder)  # noqa: PTH102
    sync(folder.parent)


def write_new(path: Path, pieces: Iterable[Piece]) -> tuple[str, int]:
    """Writes a file that is not there yet and brings it to the disk.

    Returns:
        Its SHA-256 and its number of bytes, both of what was given, whatever the disk made of it.
    """
    digest, size = hashlib.sha256(), 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for piece in pieces:
            view = memoryview(piece)
            for start in range(0, len(view), CHUNK):
                chunk = view[start : start + CHUNK]
                digest.update(chunk)
                _write(handle, chunk)
            size += len(view)
        os.fsync(handle)
    finally:
        os.close(handle)
    return digest.hexdigest(), size


def _write(handle: int, data: memoryview) -> None:
    while data:
        done = os.write(handle, data)  # less than all of it where the disk is nearly full
        if not done:
            raise OSError(errno.EIO, "nothing could be written")
        data = data[done:]


def replace_file(path: Path, data: bytes) -> None:
    """Replaces a file as a whole.

    Raises:
        OSError: it could not be written and is as it was.
    """
    temporary = path.parent / f"{NEW}{path.name}-{secrets.token_hex(4)}"
    try:
        write_new(temporary, [data])
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise
    sync(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces a file as a whole, and makes its folder.

    Raises:
        CheckpointError: the folder cannot be written, with the reason and the free bytes.
    """
    try:
        make_folder(path.parent)
        replace_file(path, data)
    except OSError as error:
        raise unwritable(path.parent, error) from error


def append(path: Path, data: bytes) -> None:
    """Adds to the end of a file, all or nothing: half a line would spoil the next one too.

    Raises:
        OSError: it could not be written and is as long as it was.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        size = os.fstat(handle).st_size
        try:
            _write(handle, memoryview(data))
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)


def remove(folder: Path) -> None:
    """Removes a folder, or what is left of it; it is gone under its name at once. What cannot be removed stays."""
    gone = folder.parent / f"{NEW}gone-{folder.name}-{secrets.token_hex(4)}"
    with contextlib.suppress(OSError):
        os.rename(folder, gone)  # noqa: PTH104
        clear(gone)


def clear(folder: Path) -> None:
    """Removes a folder as far as it can be removed."""
    with contextlib.suppress(OSError):  # rmtree lets some errors through that it was told to ignore
        shutil.rmtree(folder, ignore_errors=True)


def read_regular(path: Path, most: int) -> bytes:
    """What a file holds, if it is a plain file of at most ``most`` bytes: no link, pipe or device is followed.

    Raises:
        OSError: it is missing, something else, or larger.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    handle = os.open(path, flags)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a plain file")
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"{status.st_size} bytes, expected at most {most}")
        return file.read(status.st_size)


def reason(folder: Path, error: OSError) -> str:
    """Why a folder cannot be written, and how much room there is."""
    return f"cannot write to '{folder}': {error.strerror or error} ({free(folder)} bytes free)"


def free(folder: Path) -> int:
    """Bytes that may still be written where a folder is or would be."""
    for near in (folder, *folder.absolute().parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(near).free
    return 0


def unwritable(folder: Path, error: OSError) -> CheckpointError:
    """The error of a folder that cannot be written."""
    return CheckpointError(f"{reason(folder, error)}; choose another folder with --out")
