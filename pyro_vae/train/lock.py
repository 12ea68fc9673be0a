"""The lock of a run folder, which the system releases when its process ends, however it ends."""

import os
import socket
from pathlib import Path
from types import ModuleType

from ..errors import UserError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows: a folder is then not locked
    fcntl = None

_descriptors: set[int] = set()  # of the locks that this process holds

if hasattr(os, "register_at_fork"):  # a worker must not hold a lock longer than its parent

    def _close_in_child() -> None:
        for descriptor in _descriptors:
            os.close(descriptor)
        _descriptors.clear()

    os.register_at_fork(after_in_child=_close_in_child)


class FolderLock:
    """`flock` on the file `.lock` of a folder.

    Where there is no `flock` (Windows, some network file systems), two runs on one folder are not
    detected.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / ".lock"
        self._descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether this run has locked the file that the folder has now."""
        return self._descriptor is not None and self._is_current(self._descriptor)

    def acquire(self) -> None:
        """Lock the folder, which exists.

        Raises:
            UserError: another run has locked it.
            OSError: the file cannot be written.
        """
        while not self.is_held:
            self._close()
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            _descriptors.add(self._descriptor)
            self._lock(self._descriptor)

    def release(self) -> None:
        """Unlock the folder, and remove the file."""
        if self.is_held:
            self.path.unlink(missing_ok=True)
        self._close()

    def _lock(self, descriptor: int) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            self._close()
            raise UserError(
                f"{self.folder} is in use by another run{f' ({holder})' if holder else ''}: wait "
                "until it ends, or choose another folder"
            ) from None
        except OSError:
            return  # a file system without locks
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def _is_current(self, descriptor: int) -> bool:
        """Whether the file that is locked is still the one in the folder."""
        try:
            in_folder, locked = os.stat(self.path), os.fstat(descriptor)
        except OSError:
            return False
        return os.path.samestat(in_folder, locked)

    def _close(self) -> None:
        if self._descriptor is not None:
            _descriptors.discard(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None
