"""Where files are: whether they last, how much room they have, how long a sync takes."""

import os
import statistics
import tempfile
import time
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")  # proc(5); elsewhere nothing is known
MEMORY = frozenset({"tmpfs", "ramfs"})
LAYERS = frozenset({"overlay", "aufs"})  # of a container: gone with it
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "fuse.s3fs", "ceph", "glusterfs"})
SYNCS = 10


def file_system(directory: Path, mounts: Path = MOUNTS) -> str:
    """The type of the file system that the directory is on, '' where that can't be known."""
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return ""
    found = [(len(point), index, type) for index, (_, point, type, *_) in enumerate(lines) if _is_at(directory, point)]
    return max(found)[2] if found else ""


def _is_at(directory: Path, point: str) -> bool:
    return directory.resolve().is_relative_to(point.replace("\\040", " "))


def free_bytes(directory: Path) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def sync_milliseconds(directory: Path) -> float:
    """What a small write takes until it is on the disk: the median of a few. Raises OSError."""
    times = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(SYNCS):
            started = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)
