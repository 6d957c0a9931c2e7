"""A disk for tables that can be full, or read-only, at will."""

import contextlib
import ctypes
import os
import subprocess

SIZE_BYTES = 1 << 30
TRIES = 100
NEW_MOUNTS = 0x00020000  # CLONE_NEWNS


def has_own_mounts():
    """Give this process mounts of its own, which end with it; returns whether it may."""
    if os.geteuid() or ctypes.CDLL(None).unshare(NEW_MOUNTS):
        return False
    return subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True).returncode == 0


class SmallDisk:
    """A tmpfs at a folder. Where none can be mounted, limits and permissions take its place.

    Attributes:
        is_mounted: which of the two it is.
    """

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.is_mounted = has_own_mounts() and self._run(
            *("-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "none", str(folder))
        )

    def fill(self, left_bytes):
        """Leave so many bytes; returns the faults that the next run needs for it."""
        if not self.is_mounted:
            return {"limit": {"size_bytes": 2048 + left_bytes // 32}}  # for each of many files
        for _ in range(TRIES):  # a run that writes meanwhile may need more by now
            status = os.statvfs(self.folder)
            used = (status.f_blocks - status.f_bfree) * status.f_frsize
            if self._remount(f"size={used + left_bytes}"):
                return {}
        raise AssertionError(f"{self.folder} cannot be made to have {left_bytes} bytes left")

    def make_read_only(self):
        """Refuse all writing; returns whether it does so by now (not while a file is written)."""
        if self.is_mounted:
            return self._remount("ro")
        self._allow(0o555)
        return True

    def heal(self):
        """Be as at first."""
        if self.is_mounted:
            assert self._remount(f"rw,size={SIZE_BYTES}")
        else:
            self._allow(0o755)

    def give_back(self):
        """Take the mount away."""
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def _allow(self, mode):
        for folder, _, _ in os.walk(self.folder, topdown=False):
            os.chmod(folder, mode)

    def _remount(self, options):
        return self._run("-o", f"remount,{options}", str(self.folder))

    def _run(self, *arguments):
        with contextlib.suppress(OSError):
            done = subprocess.run(["mount", *arguments], capture_output=True)
            return done.returncode == 0
        return False
