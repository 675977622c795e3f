"""Becomes another program that dies with the process that started this one.

Run as `python -I -S launcher.py PARENT SIGNAL PID_FILE -- PROGRAM ...`. Owns what must happen
between fork and exec: a `preexec_fn` would run in a copy of a process full of gRPC threads.
It must import nothing but the standard library, and little of that: it is in every start's way.
"""

import contextlib
import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
EXIT_ORPHANED = 70
EXIT_NO_PROGRAM = 127


def start_ticks(pid: int) -> int:
    """Start time of a process in clock ticks since boot, field 22 of /proc/PID/stat."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
        # The second field is the program's name in brackets and may itself hold any character.
        return int(file.read().rpartition(")")[2].split()[19])


def boot_id() -> str:
    """Names this boot of the machine, within which start times are unambiguous."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123
        return file.read().strip()


def write_record(path: str) -> None:
    """Writes who this process is; the record stays true after exec."""
    draft = f"{path}.{os.getpid()}"
    try:
        with open(draft, "w", encoding="ascii") as file:  # noqa: PTH123
            file.write(f"{os.getpid()} {start_ticks(os.getpid())} {boot_id()}\n")
        os.replace(draft, path)  # noqa: PTH105
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(draft)  # noqa: PTH108
        raise


def main() -> None:
    """Asks the kernel for a signal at the parent's death, then becomes the program."""
    parent, number, pid_path, _, *program = sys.argv[1:]
    if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        sys.exit("launcher: the kernel refused PR_SET_PDEATHSIG")
    # The parent may have died before the call above, and no signal comes for that.
    if os.getppid() != int(parent):
        sys.exit(EXIT_ORPHANED)
    # A disk that takes no record must not keep the program from running: the signal above is the
    # first net, the record only the second.
    try:
        write_record(pid_path)
    except OSError as error:
        sys.stderr.write(f"launcher: {pid_path} was not written: {error}\n")
    try:
        os.execvp(program[0], program)
    except OSError as error:
        sys.stderr.write(f"launcher: {program[0]} cannot be started: {error}\n")
        sys.exit(EXIT_NO_PROGRAM)


if __name__ == "__main__":
    main()
