"""The figures: what is measured, in which unit, against what, and the target. figure.py explains the fields."""

from . import notes
from .figure import Count, Figure, Limit, Series

SPAWN_LABELS = {"raw": "posix_spawn", "clean": "posix_spawn, child as drover's",
                "threads": "posix_spawn, child as drover's, reaper thread"}
LEAST = "asio::awaitable and async_wait, nothing else"
POOL_LABELS = {"raw": "lock + look-up + count, lock + count", "drover": "drover", "lookup": "lock + look-up",
               "try_acquire": "drover, try_acquire", "release()": "drover, co_await release()"}


def _resource_pool(state, keys, order="any"):
    tail = f"{order}/{keys}/real_time/threads:1"
    return {"raw": f"raw_lock_lookup/{tail}", "pair": f"raw_pair/{tail}", "drover": f"acquire_drop/{state}/{tail}",
            "try_acquire": f"try_acquire_drop/{state}/{tail}", "release()": f"acquire_release/{state}/{tail}"}


def _all():
    for size in ("10MB", "4GB"):
        yield Figure(f"T-1/{size}", f"Process::spawn to the first byte, {size} parent", "us", "spawn", ratio=1.05,
                     methods=("raw", "drover", "clean", "threads", "fork+exec"), labels=SPAWN_LABELS, note=notes.SPAWN)
    for size in ("10MB", "4GB"):
        yield Figure(f"T-2/{size}", f"Caller blocked in Process::spawn, {size} parent", "us", "spawn", ratio=1.15,
                     methods=("raw", "drover", "clean", "threads", "fork+exec"), labels=SPAWN_LABELS, note=notes.SPAWN)
    yield Figure("T-3", "LocalWorker::start", "us", "lifecycle", ratio=1.10, fair=1.02, note=notes.START,
                 methods=("raw", "drover", "threads"),
                 labels={"raw": "raw re-execution", "threads": "raw, child as drover's, control and reaper threads"})
    yield Figure("T-4", "Process::reap(0s)", "us", "lifecycle", ratio=1.35, fair=0.9,
                 methods=("raw", "drover", "threads"),
                 labels={"raw": "kill + waitid", "threads": "raw, reaper thread"},
                 note="drover also checks the process before the signal, sends SIGCONT and kills the process group.")
    yield Figure("T-5", "LocalWorker::stop(0s), idle", "us", "lifecycle", ratio=1.5, fair=1.05, note=notes.STOP,
                 methods=("raw", "drover", "threads"),
                 labels={"raw": "raw stop message", "threads": "raw, reply, control and reaper threads"})
    yield Figure("T-6", "WorkerPool::stop(), 64 idle workers", "us", "lifecycle", ratio=1.3,
                 labels={"raw": "64 raw stops"}, note=notes.STOP,
                 limits=(Limit("threads_with_64", equals="threads_with_1",
                               text="no more threads than with one worker"),))
    for cores, ratio, ahead in (("1c", 1.25, ("*",)), ("2c", 1.05, ("grpc", "zeromq"))):
        yield Figure(f"T-7/{cores}", f"One call, 64 B, {cores}, p50", "us", "call", ratio=ratio, ahead_of=ahead,
                     methods=("raw", "drover", "least" if cores == "1c" else "spinning"),
                     labels={"raw": "raw epoll", "least": LEAST, "spinning": "raw, both sides spin"}, note=notes.ECHO)
    yield Figure("T-7s/2c", "One call, 64 B, with spin, 2c, p50", "us", "call", ratio=0.2, ahead_of=("*",), ahead_by=4,
                 methods=("raw", "drover", "spinning"), names={"raw": "T-7/2c/raw", "spinning": "T-7/2c/spinning"},
                 labels={"raw": "raw epoll", "drover": "drover, spin", "spinning": "raw, both sides spin"},
                 note=notes.SPIN)
    for cores, ratio in (("1c", 2.5), ("2c", 1.8)):
        yield Figure(f"T-8/{cores}", f"Calls, 64 in flight, {cores}", "1/s", "call", ratio=ratio, more_is_better=True,
                     ahead_of=("*",), methods=("raw", "drover", "batched"),
                     labels={"raw": "64 separate writes", "batched": "raw, one write"}, note=notes.ECHO)
    for size in ("1MiB", "64MiB"):
        for cores in ("1c", "2c"):
            base = f"T-9/{size}/{cores}"
            names = {"raw": f"{base}/raw-wide", "default": f"{base}/raw"}
            labels = {"raw": "raw socket", "default": "raw, default buffer", "raw-fresh": "raw, memory freed",
                      "copied": "drover, argument copied"}
            yield Figure(base, f"{size} one way, moved in, {cores}", "GiB/s", "payload", ratio=0.75,
                         more_is_better=True, ahead_of=("*",), names=names, labels=labels, note=notes.BULK,
                         methods=("raw", "drover", "copied", "default", "raw-fresh"))
            yield Figure(f"{base}/borrowed", f"{size} one way, borrowed, {cores}", "GiB/s", "payload", ratio=0.95,
                         more_is_better=True, names=names | {"drover": f"{base}/borrowed"}, note=notes.BULK,
                         labels={"raw": "raw socket", "drover": "drover, borrowed"})
    yield Figure("T-10", "Calls of 1 ms CPU time, 2 workers on 2 cores", "1/s", "pool", ratio=0.97, more_is_better=True,
                 methods=("raw", "drover", "one"), names={"raw": "T-10/machine", "one": "T-10/raw"},
                 labels={"raw": "two processes without calls", "one": "one worker"},
                 note="The parent needs CPU time, too. Two processes without calls show what the machine can reach.")
    for state, ratio in (("held", 1.15), ("idle", 2.0)):
        names = _resource_pool(state, 1000)
        yield Figure(f"T-11/{state}", f"ResourcePool: acquire and release, {state} key", "ns", "resource_pool",
                     ratio=ratio, methods=("raw", "drover", "lookup", "try_acquire", "release()"), note=notes.POOL_KEYS,
                     names=names | {"raw": names["pair"], "lookup": names["raw"]}, labels=POOL_LABELS)
    yield from _growth()
    yield Figure("T-12/memory", "ResourcePool: memory of an idle key among a million", "B", "scale", value=140,
                 labels={"raw": "std::unordered_map"},
                 note="The bytes that malloc has handed out, without the key and the value of 8 bytes each.")
    for level in ("O0", "O2"):
        yield Figure(f"T-13/{level}", f"Compile a file with one call, -{level}, CPU time", "s", ratio=1.15,
                     bounds={"header-only": 6} if level == "O0" else {},
                     kind="compile", quick_rounds=1, full_rounds=3,
                     methods=("raw", "drover", "header-only", "program"),
                     labels={"raw": "selective Asio", "drover": "drover, DROVER_SEPARATE_COMPILATION",
                             "header-only": "drover, header-only", "program": "drover, header-only, whole program"},
                     limits=(Limit("memory_mib", at_most=350, text="peak memory <= 350 MiB"),),
                     note=notes.COMPILE)
        yield Figure(f"T-13/signature/{level}", f"Each further signature of a call, -{level}, CPU time", "ms", value=40,
                     kind="signature", quick_rounds=1, full_rounds=3, methods=("drover", "awaitable"),
                     labels={"awaitable": "a coroutine of the type, without a call"}, note=notes.SIGNATURE,
                     limits=(Limit("code_kb", at_most=3, text="<= 3 KB of code"),))
    yield Figure("T-14", "Parent's memory for an idle worker", "KiB", "scale", value=10, methods=("drover",),
                 limits=(Limit("descriptors", at_most=3, text="<= 3 descriptors"),),
                 note=notes.MEMORY)
    yield Figure("T-14/idle", "1,000 idle workers: how often the parent's threads wake up", "times", "start",
                 methods=("drover",), names={"drover": "T-26/drover"}, counters={"drover": "parent_sleeps"},
                 limits=(Limit("parent_sleeps", at_most=0, text="no wake-up of the parent in 5 s"),
                         Limit("worker_sleeps", at_most=0, text="none of a worker")),
                 quick_rounds=1, full_rounds=3, size=1000, note=notes.IDLE)
    yield Figure("T-15", "SIGKILL of the parent until 64 idle workers have exited", "ms", "scale", ratio=2.0,
                 methods=("raw", "drover", "executed"),
                 labels={"raw": "64 plain children at end of file", "executed": "64 executed programs at end of file"},
                 note=notes.DEATH)
    for workers in (8, 64):
        yield Figure(f"T-16/{workers}", f"One caller in a pool of {workers}, 64 B, p50", "us", "pool", ratio=1.15,
                     names={"raw": "T-16/raw"}, labels={"raw": "pool of 1"}, note=notes.SIZE)
    yield Figure("T-16/256", "One caller in a pool of 256, 64 B, p50", "us", "pool", ratio=1.15,
                 methods=("raw", "8", "64", "drover"), names={"raw": "T-16/raw", "8": "T-16/8/drover",
                                                              "64": "T-16/64/drover"},
                 labels={"raw": "pool of 1"}, note=notes.SIZE, axis="workers",
                 series=(Series("drover", {"raw": 1, "8": 8, "64": 64, "drover": 256}),))
    yield Figure("T-16/instructions", "Parent's instructions of a call in a pool of 256", "instructions", "pool",
                 kind="instructions", ratio=1.1, names={"raw": "T-16/raw", "drover": "T-16/256/drover"},
                 labels={"raw": "pool of 1"}, counters={"raw": "parent", "drover": "parent"}, quick_rounds=0,
                 full_rounds=1, count=Count(1000, 3000, worker=False),
                 note="Counted as T-19, in the parent only.")
    for cores in ("1c", "2c"):
        yield Figure(f"T-17/{cores}", f"64 callers, one worker, default options, {cores}", "1/s", "call", ratio=0.8,
                     more_is_better=True, methods=("raw", "drover", "64"), names={"64": f"T-8/{cores}/drover"},
                     labels={"raw": "max_in_flight = 2", "64": "max_in_flight = 64"}, note=notes.DEFAULTS)
    yield from _open_loop()
    yield from _counted()
    yield from _together()
    for state in ("held", "idle"):
        yield Figure(f"T-21/{state}", f"ResourcePool: acquire and release on two threads, {state} keys", "1/s",
                     "resource_pool_threads", ratio=1.3, more_is_better=True,
                     methods=("raw", "drover", "4", "locked-1", "locked-2", "locked-4"), note=notes.THREADS,
                     names={"raw": f"T-21/{state}/1", "drover": f"T-21/{state}/2", "4": f"T-21/{state}/4"}
                     | {f"locked-{count}": f"T-21/locked/{count}" for count in (1, 2, 4)},
                     labels={"raw": "one thread", "drover": "two threads"},
                     series=(Series("drover", {"raw": 1, "drover": 2, "4": 4}),
                             Series("one lock", {f"locked-{count}": count for count in (1, 2, 4)})), axis="threads")
    yield Figure("T-22", "A worker is killed until a call is answered, one spare", "us", "supervision", ratio=0.25,
                 methods=("raw", "drover", "no-spare"), note=notes.SPARE,
                 labels={"raw": "start of a pool and a call", "no-spare": "drover, no spare, no backoff"})
    yield Figure("T-23", "Start of a worker by a fork server", "us", "supervision", ratio=0.55,
                 labels={"raw": "executed", "drover": "Launch::fork"}, note=notes.FORK)
    yield Figure("T-23/memory", "Memory that an idle worker shares with no other process", "KiB", "supervision",
                 ratio=0.5, names={"raw": "T-23/raw", "drover": "T-23/drover"},
                 counters={"raw": "private_kib", "drover": "private_kib"},
                 labels={"raw": "executed", "drover": "Launch::fork"}, note=notes.FORK)
    for size, ratio in (("256KiB", 1.4), ("1MiB", 2.2), ("64MiB", 2.2)):
        yield Figure(f"T-24/{size}", f"{size} one way in shared memory, 1c", "GiB/s", "payload", ratio=ratio,
                     more_is_better=True, methods=("raw", "drover", "fresh", "result"), note=notes.SHARED,
                     labels={"raw": "raw socket", "fresh": "drover, fresh memory", "result": "drover, as a result"})
    for launch in ("exec", "fork"):
        names = dict.fromkeys(("raw", "drover"), f"T-25/{launch}")
        shared = {"names": names, "labels": {"raw": "before"}, "quick_rounds": 1, "size": 64, "note": notes.RELOAD}
        yield Figure(f"T-25/{launch}/rate", f"Reload of 64 workers at full load, {launch}: calls", "1/s", "supervision",
                     ratio=0.9, more_is_better=True, counters={"raw": "full_rate_before", "drover": "full_rate"},
                     limits=(Limit("full_lost", at_most=0, text="nothing lost"),), **shared)
        yield Figure(f"T-25/{launch}/fewest", f"The same, the worst 50 ms", "1/s", "supervision", ratio=0.9,
                     more_is_better=True, counters={"raw": "full_fewest_before", "drover": "full_fewest"}, **shared)
        yield Figure(f"T-25/{launch}/p99", f"Reload of 64 workers at half load, {launch}: p99 of calls", "us",
                     "supervision", ratio=2.0, counters={"raw": "half_p99_before_us", "drover": "half_p99_us"},
                     limits=(Limit("half_lost", at_most=0, text="nothing lost"),), **shared)
    yield Figure("T-26/blocked", "Start of 1,000 workers: longest turn of the parent's loop", "ms", "start", value=5,
                 names={"raw": "T-26/raw", "drover": "T-26/drover"}, labels={"raw": "posix_spawn"},
                 counters={"raw": "longest_ms", "drover": "longest_ms"}, quick_rounds=1, full_rounds=3,
                 size=1000, note=notes.START_MANY)
    yield Figure("T-26/total", "Start of 1,000 workers", "ms", "start",
                 names={"raw": "T-26/raw", "drover": "T-26/drover"}, labels={"raw": "posix_spawn"},
                 counters={"raw": "total_ms", "drover": "total_ms"}, quick_rounds=1, full_rounds=3,
                 size=1000, note=notes.START_MANY)
    for cores in ("1c", "2c"):
        yield Figure(f"T-28/items/{cores}", f"Stream of items of 64 B, {cores}", "1/s", "stream", ratio=0.5,
                     more_is_better=True, methods=("raw", "drover", "plain", "sent"), note=notes.STREAM,
                     labels={"raw": "calls, 64 in flight", "plain": "drover, a plain function writes",
                             "sent": "drover, to the routine"})
        yield Figure(f"T-28/blocks/{cores}", f"Stream of items of 64 KiB, {cores}", "GiB/s", "stream", ratio=0.8,
                     more_is_better=True, methods=("raw", "copied", "drover"), note=notes.STREAM,
                     labels={"raw": "raw socket", "copied": "raw socket, a string of its own for each on both sides"})
        yield Figure(f"T-28/first/{cores}", f"Until the first item of a stream, {cores}, p50", "us", "stream",
                     ratio=1.2, labels={"raw": "call of a coroutine"}, note=notes.STREAM)


def _growth():
    sizes = [10**power for power in range(3, 8)]
    pool = {str(size): f"T-12/pool/{size}" for size in sizes}
    lines = {"drover": {str(size): size for size in sizes}, "map": {f"map-{size}": size for size in sizes}}

    def figure(name, title, unit, counter, with_map, **fields):
        ends = {"raw": f"T-12/map/{sizes[-1]}" if with_map else f"T-12/pool/{sizes[0]}",
                "drover": f"T-12/pool/{sizes[-1]}"}
        maps = {f"map-{size}": f"T-12/map/{size}" for size in sizes} if with_map else {}
        names = ends | pool | maps
        series = [Series("drover", lines["drover"])]
        if with_map:
            series.append(Series("lock + std::unordered_map", lines["map"]))
        methods = tuple(name for name in names if name != "raw" or with_map or "ratio" in fields)
        return Figure(f"T-12/{name}", f"ResourcePool: {title}", unit, "growth", methods=methods, names=names,
                      counters=dict.fromkeys(names, counter), series=tuple(series), axis="keys", size=sizes[-1],
                      quick_rounds=1, full_rounds=3, note=notes.GROWTH, **fields)

    among = {"raw": "the same among 1000"}
    map_label = {"raw": "lock + std::unordered_map"}
    yield figure("held", "held key among ten million", "ns", "held_ns", False, ratio=1.2, labels=among)
    yield figure("idle", "idle key among ten million", "ns", "idle_ns", False, ratio=1.2, labels=among)
    yield figure("any", "any idle key of ten million", "ns", "any_ns", True, labels=map_label)
    yield figure("new", "new key, up to ten million", "ns", "grow_ns", True, labels=map_label)
    yield figure("longest-acquire", "longest acquire while it grows to ten million keys", "us", "longest_acquire_us",
                 True, value=1000, labels=map_label)
    yield figure("longest-expiry", "longest turn while ten million keys expire", "us", "longest_expire_us", False,
                 value=1000)
    yield figure("longest-clear", "longest turn while ten million keys are cleared", "us", "longest_clear_us", False,
                 value=1000)


def _open_loop():
    def figure(name, title, raw, drover, **fields):
        loads = {"raw": raw, "drover": drover} if raw else {"drover": drover}
        counters = {method: f"{load}_p99_us" for method, load in loads.items()}
        for part in ("p50", "p999"):
            counters |= {f"{method}, {part}": f"{load}_{part}_us" for method, load in loads.items()}
        counters |= fields.pop("extra", {})
        labels = {"raw": raw or "", "drover": "drover"} | fields.pop("labels", {})
        labels |= {f"raw, {part}": f"{labels['raw']}, {part}" for part in ("p50", "p999")}
        return Figure(f"T-18/{name}", title, "us", "open_loop", methods=tuple(counters), counters=counters,
                      labels=labels, names=dict.fromkeys(counters, "T-18"), note=notes.OPEN_LOOP, quick_rounds=1,
                      **fields)

    def nothing_lost(load):
        return (Limit(f"{load}_lost", at_most=0, text="nothing lost"),)

    yield figure("plain", "Open loop at 80 %: p99", "", "plain", limits=nothing_lost("plain"))
    yield figure("slow", "Open loop, 1 % slow calls: p99 of the others", "plain", "slow",
                 labels={"raw": "without slow calls"}, limits=nothing_lost("slow"))
    yield figure("kill-after", "Open loop, 1 % slow calls with kill_after: p99 of the others", "slow", "kill_after",
                 ratio=1.2, labels={"raw": "without kill_after"}, limits=nothing_lost("kill_after"))
    yield figure("kills", "Open loop, 20 workers killed a second: p99", "plain", "kills", ratio=1.5,
                 labels={"raw": "without kills", "no-backoff": "replaced at once"},
                 extra={"no-backoff": "kills_no_backoff_p99_us"}, limits=nothing_lost("kills"))


def _counted():
    counts = {"instructions": {"parent": 2400, "worker": 1500}, "system calls": {"parent": 4, "worker": 3}}
    for kind, bounds in counts.items():
        for process, bound in bounds.items():
            name = kind.replace(" ", "-")
            methods = ("raw", "drover", "least") if process == "parent" else ("raw", "drover")
            yield Figure(f"T-19/{name}/{process}", f"{kind.capitalize()} of a call, {process}", kind, "call", kind=kind,
                         value=bound, methods=methods, names={method: f"T-7/1c/{method}" for method in methods},
                         labels={"raw": "raw epoll", "least": LEAST}, counters={method: process for method in methods},
                         quick_rounds=1, full_rounds=1, count=Count(1000, 3000), note=notes.COUNTED)
    for process in ("parent", "worker"):
        yield Figure(f"T-19/in-flight/{process}", f"Instructions of a call, 64 in flight, {process}", "instructions",
                     "call", kind="instructions", names={"raw": "T-8/1c/raw", "drover": "T-8/1c/drover"},
                     labels={"raw": "64 separate writes"}, counters={"raw": process, "drover": process}, quick_rounds=0,
                     full_rounds=1, count=Count(1, 2, operations=2048), note=notes.COUNTED)


def _together():
    for kind, title in (("children", "of children"), ("queued", "of calls that wait"),
                        ("in-flight", "of calls in flight")):
        yield Figure(f"T-20/{kind}", f"Each of 16,000 deadlines {title} that are due together", "us", "deadlines",
                     ratio=2.0, methods=("raw", "4000", "drover"), labels={"raw": "each of 1000"},
                     names={"raw": f"T-20/{kind}/1000", "4000": f"T-20/{kind}/4000", "drover": f"T-20/{kind}/16000"},
                     series=(Series("drover", {"raw": 1000, "4000": 4000, "drover": 16000}),), axis="deadlines",
                     quick_rounds=1, note=notes.TOGETHER)


FIGURES = tuple(_all())

# The programs of bench/peers, and what each needs. The results name those that are missing.
PEER_PROGRAMS = {
    "fork_exec": "nothing", "libuv": "libuv", "boost_process": "Boost.Process v2", "zeromq": "ZeroMQ with cppzmq",
    "grpc": "gRPC C++", "capnp": "Cap'n Proto",
}
