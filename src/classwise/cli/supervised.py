"""A command in a child process, whose status counts only if the command itself reports it.

A model is somebody's code: with ``os._exit(0)``, or by becoming another program, it could end a gate with status 0.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_SI_KERNEL = 0x80  # asm-generic/siginfo.h: a key pressed at the terminal, which the child gets as well
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if sys.platform == "linux" else ()


def reported(run: Callable[[], int]) -> int | None:
    """Run a function in a child process and return the status that it returned.

    Signals to this process are passed on, and the child dies with it. Where the system is not Linux the function runs
    in this process.

    Args:
        run: returns a status from 0 to 255; nothing may have started threads before.

    Returns:
        The status; None where the child ended without reporting one.
    """
    if sys.platform != "linux":
        return run()
    reading, writing = os.pipe()  # not inherited by programs that the child becomes or starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [*_PASSED_ON, signal.SIGCHLD])
    child = os.fork()
    if not child:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(reading)
        status = run()
        os.write(writing, bytes([status]))
        sys.exit(status)
    os.close(writing)
    try:
        _wait(child)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read(1)
    return answer[0] if answer else None


def _wait(child: int) -> None:
    """Wait until the child has ended, and hand it the signals that were meant for it."""
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        came = signal.sigwaitinfo([*_PASSED_ON, signal.SIGCHLD])
        if came.si_signo != signal.SIGCHLD and came.si_code != _SI_KERNEL:
            os.kill(child, came.si_signo)
