"""The figures: what is measured, in which unit, against what, and the target."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limit:
    """A bound on one of drover's counters, beside the ratio."""

    counter: str
    at_most: float = 0.0
    equals: str = ""  # another counter that must not be exceeded
    text: str = ""

    def holds(self, counters):
        if self.counter not in counters:
            return False
        if self.equals:
            return counters[self.counter] <= counters.get(self.equals, -1)
        return counters[self.counter] <= self.at_most


@dataclass(frozen=True)
class Figure:
    id: str
    title: str
    unit: str
    program: str = ""  # empty: run.py measures it itself
    ratio: float = 0.0  # the bound on drover / raw: at most, or at least if more is better; 0: none
    value: float = 0.0  # the bound on drover's number; 0: none
    more_is_better: bool = False
    ahead_of: tuple = ()  # the beginnings of the names of peers that drover has to beat; "*": all
    limits: tuple = ()
    methods: tuple = ("raw", "drover")
    names: dict = field(default_factory=dict)  # method: name of its benchmark, if not FIGURE/METHOD
    labels: dict = field(default_factory=dict)  # method: its description in the results
    note: str = ""

    def benchmark(self, method):
        return self.names.get(method, f"{self.id}/{method}")

    def label(self, method):
        return self.labels.get(method, method)

    @property
    def target(self):
        sign = ">=" if self.more_is_better else "<="
        parts = []
        if self.value:
            parts.append(f"{sign} {self.value:g} {self.unit}")
        if self.ratio:
            parts.append(f"{sign} {self.ratio:g} x {self.label('raw')}")
        parts += [limit.text for limit in self.limits]
        if "*" in self.ahead_of:
            parts.append("ahead of every peer")
        elif self.ahead_of:
            parts.append("ahead of " + ", ".join(self.ahead_of))
        return "; ".join(parts)


SPAWN = ("The parent's memory is in pages of 4 KiB. All children inherit stdin, stdout and stderr. drover's child also "
         "gets a process group, an empty signal mask, default dispositions and no other descriptor.")
SPAWN_LABELS = {"raw": "posix_spawn", "clean": "posix_spawn, child as drover's",
                "threads": "posix_spawn, child as drover's, reaper thread"}
START = ("raw executes the same program again and waits until its Asio loop has sent a byte. drover's worker has also "
         "sent the names of its routines and started its control thread.")
STOP = ("raw is one byte on a socket, on which main() of the child returns, and waitid(). No calls are in flight. "
        "drover also kills what is left of the process group.")
ECHO = ("raw is write, epoll_wait and read of 64 bytes on both sides. drover's 64 bytes are a std::string in each "
        "direction, with the routine's name and a header of 24 bytes.")
BULK = ("raw sends from one buffer and receives into one buffer, with a send buffer as wide as drover's. `raw, default "
        "buffer` has the kernel's. drover's std::string is moved in, borrowed, or passed by reference and copied. The "
        "routine sees it as a std::string_view.")
SPIN = ("raw sleeps in epoll_wait, as in T-7. drover's parent and worker poll for 1 ms after each call, each on a core "
        "of its own. `raw, both sides spin` is the least that is possible.")
SIZE = ("Parent and workers share one core. One caller, 64 B, p50. raw is a pool of one worker.")
POOL_KEYS = ("1000 std::string keys in random order, one thread, CPU time. raw is the least that an acquire and a "
             "release take: a lock, a look-up and a count, then a lock and a count. `lock + look-up` does not count.")
COMPILE = ("The sources are in bench/compile/. The target holds for programs that compile drover/src.hpp once. Without "
           "that, every file compiles all of drover. The whole program has both sides in one file.")
MEMORY = ("Private pages, for workers that have run a call. The kernel's memory, such as that of sockets, is not "
          "counted.")
DEATH = ("raw children are forked copies that call _exit(). drover's workers return from serve() and run the "
         "destructors of static objects.")
POOL_LABELS = {"raw": "lock + look-up + count, lock + count", "drover": "drover", "lookup": "lock + look-up",
               "try_acquire": "drover, try_acquire", "release()": "drover, co_await release()"}


def _resource_pool(state, keys, order="any"):
    tail = f"{order}/{keys}/real_time/threads:1"
    return {"raw": f"raw_lock_lookup/{tail}", "pair": f"raw_pair/{tail}", "drover": f"acquire_drop/{state}/{tail}",
            "try_acquire": f"try_acquire_drop/{state}/{tail}", "release()": f"acquire_release/{state}/{tail}"}


def _all():
    for size in ("10MB", "4GB"):
        yield Figure(f"T-1/{size}", f"Process::spawn to the first byte, {size} parent", "us", "spawn", ratio=1.05,
                     methods=("raw", "drover", "clean", "threads", "fork+exec"), labels=SPAWN_LABELS, note=SPAWN)
    for size in ("10MB", "4GB"):
        yield Figure(f"T-2/{size}", f"Caller blocked in Process::spawn, {size} parent", "us", "spawn", ratio=1.15,
                     methods=("raw", "drover", "clean", "threads", "fork+exec"), labels=SPAWN_LABELS, note=SPAWN)
    yield Figure("T-3", "LocalWorker::start", "us", "lifecycle", ratio=1.10, methods=("raw", "drover", "threads"),
                 note=START,
                 labels={"raw": "raw re-execution", "threads": "raw, child as drover's, control and reaper threads"})
    yield Figure("T-4", "Process::reap(0s)", "us", "lifecycle", ratio=1.35, methods=("raw", "drover", "threads"),
                 labels={"raw": "kill + waitid", "threads": "raw, reaper thread"},
                 note="drover also checks the process before the signal, sends SIGCONT and kills the process group.")
    yield Figure("T-5", "LocalWorker::stop(0s), idle", "us", "lifecycle", ratio=1.5, note=STOP,
                 methods=("raw", "drover", "threads"),
                 labels={"raw": "raw stop message", "threads": "raw, reply, control and reaper threads"})
    yield Figure("T-6", "WorkerPool::stop(), 64 idle workers", "us", "lifecycle", ratio=1.3,
                 labels={"raw": "64 raw stops"}, note=STOP,
                 limits=(Limit("threads_with_64", equals="threads_with_1",
                               text="no more threads than with one worker"),))
    for cores, ratio, ahead in (("1c", 1.25, ("*",)), ("2c", 1.05, ("grpc", "zeromq"))):
        yield Figure(f"T-7/{cores}", f"One call, 64 B, {cores}, p50", "us", "call", ratio=ratio, ahead_of=ahead,
                     methods=("raw", "drover") if cores == "1c" else ("raw", "drover", "spinning"),
                     labels={"raw": "raw epoll", "spinning": "raw, both sides spin"}, note=ECHO)
    yield Figure("T-7s/2c", "One call, 64 B, with spin, 2c, p50", "us", "call", ratio=0.2, ahead_of=("*",),
                 methods=("raw", "drover", "spinning"), names={"raw": "T-7/2c/raw", "spinning": "T-7/2c/spinning"},
                 labels={"raw": "raw epoll", "drover": "drover, spin", "spinning": "raw, both sides spin"}, note=SPIN)
    for cores, ratio in (("1c", 2.5), ("2c", 1.8)):
        yield Figure(f"T-8/{cores}", f"Calls, 64 in flight, {cores}", "1/s", "call", ratio=ratio, more_is_better=True,
                     ahead_of=("*",), methods=("raw", "drover", "batched"),
                     labels={"raw": "64 separate writes", "batched": "raw, one write"}, note=ECHO)
    for size in ("1MiB", "64MiB"):
        for cores in ("1c", "2c"):
            base = f"T-9/{size}/{cores}"
            names = {"raw": f"{base}/raw-wide", "default": f"{base}/raw"}
            labels = {"raw": "raw socket", "default": "raw, default buffer", "raw-fresh": "raw, memory freed",
                      "copied": "drover, argument copied"}
            yield Figure(base, f"{size} one way, moved in, {cores}", "GiB/s", "payload", ratio=0.75,
                         more_is_better=True, ahead_of=("*",), names=names, labels=labels, note=BULK,
                         methods=("raw", "drover", "copied", "default", "raw-fresh"))
            yield Figure(f"{base}/borrowed", f"{size} one way, borrowed, {cores}", "GiB/s", "payload", ratio=0.95,
                         more_is_better=True, names=names | {"drover": f"{base}/borrowed"}, note=BULK,
                         labels={"raw": "raw socket", "drover": "drover, borrowed"})
    yield Figure("T-10", "Calls of 1 ms CPU time, 2 workers on 2 cores", "1/s", "pool", ratio=0.97, more_is_better=True,
                 methods=("raw", "drover", "one"), names={"raw": "T-10/machine", "one": "T-10/raw"},
                 labels={"raw": "two processes without calls", "one": "one worker"},
                 note="The parent needs CPU time, too. Two processes without calls show what the machine can reach.")
    for state, ratio in (("held", 1.15), ("idle", 2.0)):
        names = _resource_pool(state, 1000)
        yield Figure(f"T-11/{state}", f"ResourcePool: acquire and release, {state} key", "ns", "resource_pool",
                     ratio=ratio, methods=("raw", "drover", "lookup", "try_acquire", "release()"), note=POOL_KEYS,
                     names=names | {"raw": names["pair"], "lookup": names["raw"]}, labels=POOL_LABELS)
    for state in ("held", "idle"):
        yield Figure(f"T-12/{state}", f"ResourcePool: {state} key among a million", "ns", "resource_pool",
                     ratio=2.0, methods=("raw", "drover"),
                     labels={"raw": "the same among 1000 keys"},
                     names={"raw": f"acquire_drop/{state}/hot/1000/real_time/threads:1",
                            "drover": f"acquire_drop/{state}/hot/1000000/real_time/threads:1"},
                     note="Always the same key, so that the sizes of the caches do not matter. CPU time.")
    yield Figure("T-12/memory", "ResourcePool: memory of an idle key among a million", "B", "scale", value=200,
                 labels={"raw": "std::unordered_map"},
                 note="The bytes that malloc has handed out, without the key and the value of 8 bytes each.")
    for level in ("O0", "O2"):
        yield Figure(f"T-13/{level}", f"Compile a file with one call, -{level}, CPU time", "s", ratio=1.15,
                     methods=("raw", "drover", "header-only", "program"),
                     labels={"raw": "selective Asio", "drover": "drover, DROVER_SEPARATE_COMPILATION",
                             "header-only": "drover, header-only", "program": "drover, header-only, whole program"},
                     limits=(Limit("memory_mib", at_most=350, text="peak memory <= 350 MiB"),),
                     note=COMPILE)
    yield Figure("T-14", "Parent's memory for an idle worker", "KiB", "scale", value=10, methods=("drover",),
                 limits=(Limit("descriptors", at_most=3, text="<= 3 descriptors"),),
                 note=MEMORY)
    yield Figure("T-15", "SIGKILL of the parent until 64 idle workers have exited", "ms", "scale", ratio=2.0,
                 labels={"raw": "64 plain children at end of file"},
                 note=DEATH)
    for workers in (64, 256):
        yield Figure(f"T-16/{workers}", f"One caller in a pool of {workers}, 64 B, p50", "us", "pool", ratio=1.15,
                     names={"raw": "T-16/raw"}, labels={"raw": "pool of 1"}, note=SIZE)


FIGURES = tuple(_all())

# The programs of bench/peers, and what each needs. The results name those that are missing.
PEER_PROGRAMS = {
    "fork_exec": "nothing", "libuv": "libuv", "boost_process": "Boost.Process v2", "zeromq": "ZeroMQ with cppzmq",
    "grpc": "gRPC C++", "capnp": "Cap'n Proto",
}
