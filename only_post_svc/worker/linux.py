"""What Linux alone does for a process. Elsewhere these do nothing, or as much as the platform can."""

import contextlib
import ctypes
import os
import resource
import signal
import sys

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
# linux/capability.h
CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_PERFMON = 19, 21, 38
CAPABILITY_VERSION_3 = 0x20080522

IS_LINUX = sys.platform == "linux"
PAGE_BYTES = resource.getpagesize()


def _prctl(option: int, value: int) -> None:
    if IS_LINUX:
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)  # what a kernel does not know or allow is left as it is


def hide() -> None:
    """Closes this process's memory and environment, /proc/PID/{mem,environ,fd}, to processes of the same user."""
    _prctl(PR_SET_DUMPABLE, 0)


def adopt_orphans() -> None:
    """Makes orphans among this process's descendants its own children, not init's."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when its parent ends, even while C code holds the GIL."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before prctl was called
        os.kill(os.getpid(), signal.SIGKILL)


def give_up_tracing() -> None:
    """Keeps root, too, out of the processes that hide, and the programs that it starts. CAP_PERFMON and CAP_SYS_ADMIN
    read memory as CAP_SYS_PTRACE does since Linux 6.16 (may_access_mm in kernel/fork.c)."""
    if not IS_LINUX:
        return
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: 0 to 31, then 32 to 63
    libc.capget(header, sets)
    for capability in (CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_PERFMON):
        _prctl(PR_CAPBSET_DROP, capability)
        for kind in range(3):
            sets[capability // 32 * 3 + kind] &= ~(1 << capability % 32)
    libc.capset(header, sets)


def resident_bytes() -> int:
    """Of this process, now. ru_maxrss is a peak that a child has from its parent through fork and exec."""
    if not IS_LINUX:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    descriptor = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(descriptor, 256).split()[1]) * PAGE_BYTES
    finally:
        os.close(descriptor)


def children() -> list[int]:
    """The processes whose parent is this one, its orphans included. None on a kernel that does not list them."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/children", "rb") as listed:
                found += map(int, listed.read().split())
    return found


def has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def environment_has(pid: int, entry: str) -> bool:
    """Whether a process was started with `NAME=value` in its environment."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as environ:
            return entry.encode() in environ.read().split(b"\0")
    except OSError:
        return False


def reap(pid: int) -> None:
    """Takes the exit status of a child of this process, if it has ended."""
    with contextlib.suppress(OSError):
        os.waitpid(pid, os.WNOHANG)


def end(pid: int) -> None:
    """Kills a child of this process, and waits until it has ended."""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
