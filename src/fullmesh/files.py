"""The one writer of files: whole or not at all, and nothing but the file that was asked for."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fullmesh.errors import OutputError

# what a process that was killed may leave behind begins with this and ends with ".tmp"
TEMPORARY_PREFIX = ".fullmesh-"
_PIPES = (stat.S_IFIFO, stat.S_IFCHR)


def check_writable(
    path: str | Path,
    *,
    where: str = "",
    endings: Sequence[str] = (),
    inputs: Sequence[str | Path | None] = (),
) -> None:
    """Refuse, before any long work, an output that could not be written at its end.

    Parameters
    ----------
    path : str or Path
    where : str
        The option, for the message.
    endings : sequence of str
        What the name must end in, if anything.
    inputs : sequence of path
        Files that are read: an output never replaces one of them.

    Raises
    ------
    OutputError
        The name is empty or has another ending, is a folder, a disk or a socket, lies in a folder that is missing or
        write-protected, or is an input.
    """
    _target(path, where)
    name = str(path)
    if endings and not name.lower().endswith(tuple(endings)):
        raise OutputError(
            f"{Path(name).name!r} has another ending",
            where=where or name,
            expected="a name that ends in " + " or ".join(endings),
            hint=f"for instance {Path(name).stem[:40] or 'out'}{endings[0]}",
        )
    for other in inputs:
        with contextlib.suppress(OSError, ValueError):
            if other and os.path.samefile(other, path) and stat.S_ISREG(os.stat(path).st_mode):
                raise OutputError(
                    f"{name} is an input of this command",
                    where=where,
                    hint="give the output a name of its own",
                )


def make_folder(path: Path, *, where: str = "") -> None:
    """Make a folder for outputs, with the folders above it.

    Raises
    ------
    OutputError
        It cannot be made, or nothing can be written there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot make the folder: {_reason(error)}", where=where or str(path)) from None
    _check_folder(str(path), str(path), where)


def check_folder(path: str | Path, *, where: str = "") -> None:
    """Refuse, before any long work, a folder that :func:`write_folder` could not write.

    Raises
    ------
    OutputError
        The name is empty, something stands there that is no empty folder, or nothing can be written beside it.
    """
    name = str(path)
    where = where or name
    if not name.strip("/" + os.sep):
        raise OutputError("the name of the folder is empty", where=where)
    try:
        if os.path.lexists(name) and (not os.path.isdir(name) or os.listdir(name)):
            raise OutputError(
                f"{name} is there already",
                where=where,
                expected="a new folder, or an empty one",
                hint="name another folder, or remove this one",
            )
        _check_folder(os.path.dirname(os.path.abspath(name)), name, where)
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write {name}: {_reason(error)}", where=where) from None


def write_folder(path: str | Path, files: Mapping[str, str], *, where: str = "") -> None:
    """Write a new folder of UTF-8 files, whole or not at all; those that end in ``.sh`` can be run.

    The files are written into a folder ``.fullmesh-*.tmp`` beside it, which is then renamed. On any error and on an
    interrupt that folder is removed; a process that is killed outright may leave it, and it can be deleted.

    Raises
    ------
    OutputError
        As :func:`check_folder`.
    """
    check_folder(path, where=where)
    target = os.path.abspath(str(path))
    temporary = os.path.join(os.path.dirname(target), f"{TEMPORARY_PREFIX}{os.urandom(8).hex()}.tmp")
    try:
        os.mkdir(temporary)
        for name, text in files.items():
            write_text(os.path.join(temporary, name), text, where=where)
            if name.endswith(".sh"):
                mode = stat.S_IMODE(os.stat(os.path.join(temporary, name)).st_mode)
                os.chmod(os.path.join(temporary, name), mode | (mode >> 2 & 0o111))
        os.rename(temporary, target)
    except BaseException as error:
        import shutil  # only where something went wrong

        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError | ValueError):
            raise OutputError(f"cannot write {path}: {_reason(error)}", where=where) from None
        raise


def write_text(path: str | Path, text: str, *, where: str = "") -> None:
    """Write UTF-8 text; see :func:`write_bytes`."""
    # what no UTF-8 can hold (half a surrogate pair of a name in an input) becomes a visible escape
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"), where=where)


def write_json(path: str | Path, data: object, *, where: str = "") -> None:
    """Write JSON, indented by one blank; see :func:`write_bytes`."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n", where=where)


def write_bytes(path: str | Path, data: bytes, *, where: str = "") -> None:
    """Write a file whole or not at all.

    A regular file, or the one that a link points to, is replaced in one step by a temporary file of the same folder,
    after its content has reached the disk; an old file keeps its mode, a new one gets what the umask leaves. Pipes and
    character devices are written into and never replaced, and so is a file that is this process's own standard
    output or error. A disk as a device and a socket are refused.

    On any error and on an interrupt the temporary file is removed. A process that is killed outright while it writes
    leaves the old file as it was, and may leave a file ``.fullmesh-*.tmp`` beside it, which can be deleted.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    target, into = _target(path, where)
    try:
        if into:
            _write_into(target, data)
        else:
            _replace(target, data)
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write {path}: {_reason(error)}", where=where) from None


class AppendedFile:
    """A regular file of lines that only grows, by one process at a time.

    A line is written by one call of the system, so that a process that is killed outright leaves whole lines and at
    most one torn one at the end, which the next to open it cuts off.

    Parameters
    ----------
    path : str or Path
    where : str
        The option, for messages.

    Raises
    ------
    OutputError
        It cannot be opened, is no regular file, or another process holds it.
    """

    def __init__(self, path: str | Path, *, where: str = "") -> None:
        self._path, self._where = str(path), where or str(path)
        target, into = _target(path, self._where)
        if into:
            raise OutputError(
                f"{path} is no regular file", where=self._where, expected="a file that can grow"
            )
        new = not os.path.exists(target)
        try:
            flags = (
                os.O_RDWR
                | os.O_CREAT
                | os.O_APPEND
                | getattr(os, "O_CLOEXEC", 0)
                | getattr(os, "O_BINARY", 0)
            )
            self._handle = os.open(target, flags, 0o666)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {_reason(error)}", where=self._where) from None
        self._lock()
        if new:
            _sync_folder(os.path.dirname(target))

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # where there are no such locks, whoever runs two is not told
            return
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            if error.errno not in (errno.EAGAIN, errno.EACCES):  # a file system without locks
                raise OutputError(f"cannot lock {self._path}: {_reason(error)}", where=self._where) from None
            raise OutputError(
                f"another process writes {self._path}",
                where=self._where,
                hint="wait for it, or name another output",
            ) from None

    def read(self, offset: int, most_bytes: int) -> bytes:
        """Bytes from a place of the file on, at most so many."""
        os.lseek(self._handle, offset, os.SEEK_SET)
        pieces = []
        while most_bytes > 0 and (piece := os.read(self._handle, min(most_bytes, 1 << 20))):
            pieces.append(piece)
            most_bytes -= len(piece)
        return b"".join(pieces)

    def cut(self, length: int) -> None:
        """Keep the first so many bytes."""
        os.ftruncate(self._handle, length)

    def append(self, data: bytes, *, to_disk: bool) -> None:
        """Put whole lines at the end; with ``to_disk`` they have reached it when this returns.

        Raises
        ------
        OutputError
        """
        try:
            _write_all(self._handle, data)
            if to_disk:
                os.fsync(self._handle)
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {_reason(error)}", where=self._where) from None

    def close(self) -> None:
        """Let others have it."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _write_into(target: str, data: bytes) -> None:
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        if _same_open_file(target, number):
            if stream is not None:
                stream.flush()
            _write_all(number, data)
            return
    handle = os.open(target, os.O_WRONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        _write_all(handle, data)
    finally:
        os.close(handle)


def _replace(target: str, data: bytes) -> None:
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f"{TEMPORARY_PREFIX}{os.urandom(8).hex()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    mode = None
    with contextlib.suppress(FileNotFoundError):
        mode = stat.S_IMODE(os.stat(target).st_mode)
    handle = -1
    try:
        handle = os.open(temporary, flags, 0o666)
        if mode is not None:
            with contextlib.suppress(OSError):  # file systems without modes
                os.chmod(temporary, mode)
        _write_all(handle, data)
        os.fsync(handle)
        os.close(handle)
        handle = -1
        os.replace(temporary, target)
    except BaseException:
        if handle >= 0:
            os.close(handle)
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    # a new name itself survives a loss of power only with its folder; where folders cannot be synchronised, so be it
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write_all(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _target(path: str | Path, where: str) -> tuple[str, bool]:
    """Where to write, links followed, and whether into what stands there instead of replacing it."""
    name = str(path)
    where = where or name
    if not name:
        raise OutputError("the name of the file is empty", where=where)
    try:
        kind = os.stat(name).st_mode
    except FileNotFoundError:
        target = os.path.realpath(name)  # a link to nothing yet makes the file that it names
        _check_folder(os.path.dirname(target), name, where)
        if name.endswith(("/", os.sep)):
            raise OutputError(f"{name} names a folder", where=where, expected="a file") from None
        return target, False
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write {name}: {_reason(error)}", where=where) from None
    if stat.S_ISDIR(kind):
        raise OutputError(f"{name} is a folder", where=where, expected="a file")
    if stat.S_IFMT(kind) not in (*_PIPES, stat.S_IFREG):
        raise OutputError(
            f"{name} is a disk or a socket", where=where, expected="a file, a pipe or a character device"
        )
    if not os.access(name, os.W_OK):
        raise OutputError(f"{name} is write-protected", where=where)
    if stat.S_IFMT(kind) in _PIPES or any(_same_open_file(name, number) for number in (1, 2)):
        return name, True
    target = os.path.realpath(name)
    _check_folder(os.path.dirname(target), name, where)
    return target, False


def _check_folder(folder: str, name: str, where: str) -> None:
    if not os.path.isdir(folder):
        raise OutputError(
            f"cannot write {name}: there is no folder {folder}",
            where=where,
            hint="make the folder first, or name another",
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {name}: the folder {folder} is write-protected", where=where)


def _same_open_file(name: str, number: int) -> bool:
    try:
        mine = os.fstat(number)
        return stat.S_ISREG(mine.st_mode) and os.path.samestat(mine, os.stat(name))
    except OSError:
        return False


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
