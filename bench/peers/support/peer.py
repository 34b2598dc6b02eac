"""What the peers in Python share. common.hpp and rpc.hpp are the same in C++."""

import json
import mmap
import os
import statistics
import subprocess
import sys
import time

from guard import end_with_parent, guarded

SMALL_PAYLOAD = 64
IN_FLIGHT = 64


def cores():
    """The two cores in use: those in DROVER_BENCH_CORES ("0,1"), otherwise the first two on which this process may
    run."""
    given = os.environ.get("DROVER_BENCH_CORES")
    found = [int(core) for core in given.split(",")] if given else sorted(os.sched_getaffinity(0))
    return found[0], found[min(1, len(found) - 1)]


def pin(*where):
    os.sched_setaffinity(0, set(where))


# Measurements --------------------------------------------------------------------------------------------------------


def median_of(seconds, once):
    """Calls once(), which returns seconds, for `seconds` after a warm-up of a fifth of that. Returns the median."""
    warming, count = time.monotonic(), 0
    while count < 3 or time.monotonic() - warming < seconds / 5:
        once()
        count += 1
    values, start = [], time.monotonic()
    while len(values) < 5 or time.monotonic() - start < seconds:
        values.append(once())
    return median_in_us(values)


def median_in_us(values):
    return statistics.median(values) * 1e6, "us"


class Rate:
    """Counts calls that complete while a fixed number of them is in flight. A warm-up of a fifth of the time comes
    first."""

    def __init__(self, seconds):
        self._start = time.monotonic()
        self._from, self._to = self._start + seconds / 5, self._start + seconds * 1.2
        self._count, self._first, self._last = 0, None, None

    def next(self):
        """Reports the end of a call. If it returns True, the caller begins another one. For one thread only."""
        self._count += 1
        if self._last:
            return False
        if self._count % 32 == 0:
            now = time.monotonic()
            if self._first is None:
                if now >= self._from:
                    self._first = self._count, now
            elif now >= self._to:
                self._last = self._count, now
        return self._last is None

    def result(self):
        return (self._last[0] - self._first[0]) / (self._last[1] - self._first[1]), "1/s"


def ballast(total):
    """Allocates memory in pages of 4 KiB until `total` bytes of this process are resident."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        resident = int(statm.read().split()[1]) * mmap.PAGESIZE
    if resident >= total:
        return None
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        available = next(int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable:"))
    if total - resident + (1 << 29) > available:
        sys.exit("there is too little free memory for a parent of this size")
    memory = mmap.mmap(-1, total - resident, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for at in range(0, len(memory), mmap.PAGESIZE):
        memory[at] = 1
    return memory


def large_parent():
    """The size of a large parent in bytes: 4 GB, or DROVER_BENCH_MEMORY_MB."""
    return int(os.environ.get("DROVER_BENCH_MEMORY_MB", "4096")) << 20


def tiny_program():
    """The path of the tiny program, see bench/support/tiny.cpp. None if the environment does not name it."""
    return os.environ.get("DROVER_BENCH_TINY")


# Servers -------------------------------------------------------------------------------------------------------------


class Server:
    """A copy of the script that serves, pinned to one core: `script --serve PEER PATH CORE PARENT`. The `with` block
    begins once the server listens. Its end kills the server."""

    def __init__(self, peer, path, core):
        words = [sys.executable, os.path.abspath(sys.argv[0]), "--serve", peer, path, str(core), str(os.getpid())]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE)

    def __enter__(self):
        if self._process.stdout.read(1) != b"x":
            sys.exit("the server exited before it listened")
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


def report_listening():
    """For servers: lets the `with` block begin."""
    os.write(1, b"x")


# main() --------------------------------------------------------------------------------------------------------------


def main(figures, missing=None, serve=None):
    """figures: (figure, peer, note, run(folder, seconds) -> (value, unit)). missing: the reason if there are none."""
    words = sys.argv[1:]
    if words[:1] == ["--serve"]:
        peer, path, core, parent = words[1:5]
        end_with_parent(int(parent))
        pin(int(core))
        serve(peer, path)
        return 0
    if missing:
        print(missing, file=sys.stderr)
        return 0 if words == ["--list"] else 1
    if words == ["--list"]:
        for figure, peer, _, _ in figures:
            print(figure, peer)
        return 0
    given = dict(zip(words[::2], words[1::2]))
    for figure, peer, note, run in figures:
        if figure == given.get("--run") and given.get("--peer", peer) == peer:
            seconds = float(given.get("--seconds", "1"))

            def work(folder, run=run, figure=figure, peer=peer, note=note):
                pin(*cores())
                value, unit = run(folder, seconds)
                print(json.dumps({"figure": figure, "peer": peer, "value": value, "unit": unit, "note": note}))

            return guarded(work)
    if "--run" in given:
        print(f"{sys.argv[0]} has no figure \"{given['--run']}\" of \"{given.get('--peer', 'any peer')}\"; "
              "--list prints what it has", file=sys.stderr)
    else:
        print(f"usage: {sys.argv[0]} --list | --run FIGURE [--peer PEER] [--seconds S]", file=sys.stderr)
    return 2
