"""Leaves no process and no file behind, however a benchmark ends. guard.hpp is the same in C++.

front: the process that the user started. It forwards signals and waits for the guard.
guard: kills all processes below it and removes the folder when the work exits, a signal arrives or the front dies.
work:  does the measured work, and starts processes.
"""

import ctypes
import os
import shutil
import signal
import sys
import tempfile

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
WATCHED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD}
_libc = ctypes.CDLL(None, use_errno=True)


def end_with_parent(parent, signo=signal.SIGKILL):
    """Sends this process a signal when its parent dies, see PR_SET_PDEATHSIG in prctl(2)."""
    _libc.prctl(PR_SET_PDEATHSIG, int(signo), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # the parent died before the call


def _forked(body):
    child = os.fork()
    if child != 0:
        return child
    code = 1
    try:
        code = body()
    except SystemExit as error:
        print(error, file=sys.stderr)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(child):
    """Returns (0, exit code) once the child has exited, or (signal, None) if another signal arrives first. The signals
    in WATCHED must be blocked."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended == child:
            return 0, os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1
        signo = signal.sigwait(WATCHED)
        if signo != signal.SIGCHLD:
            return signo, None


def _kill_all_children():
    while True:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as children:
            for child in children.read().split():
                os.kill(int(child), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _guard(work):
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    folder = tempfile.mkdtemp(prefix="drover-peer-")
    parent = os.getpid()

    def body():
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of a KeyboardInterrupt
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        end_with_parent(parent)
        work(folder)
        return 0

    try:
        signo, code = _wait(_forked(body))
    finally:
        _kill_all_children()
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if signo else code


def guarded(work):
    """Runs work(folder) below a guard, with a private temporary folder. Returns 0, or 1 if it failed. A signal that
    ends the run also ends this process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    parent = os.getpid()

    def body():
        end_with_parent(parent, signal.SIGTERM)
        return _guard(work)

    guarding, ending = _forked(body), 0
    while True:
        signo, code = _wait(guarding)
        if not signo:
            break
        ending = signo
        os.kill(guarding, signo)
    if ending:
        signal.signal(ending, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if ending:
        os.kill(parent, ending)
    return code
