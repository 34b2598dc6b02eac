#!/usr/bin/env python3
"""Runs the benchmarks and writes results.json, results.md and a chart for each figure.

    cmake -B build/bench -G Ninja -DDROVER_DEVELOP=OFF -DDROVER_BUILD_BENCH=ON
    cmake --build build/bench
    python3 bench/run.py

The script does not build anything. A full run takes more than an hour. If it is interrupted, run.py --continue runs the
rounds that are left. Each round runs every method once, in a random order in which the methods of a
figure follow each other. The results are medians over the rounds. The script fails if a benchmark is broken, never
because the machine or drover is slow.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))

from runner import charts, results, text  # noqa: E402
from runner.compiler import Compiler, Signatures  # noqa: E402
from runner.counting import Instructions, SystemCalls  # noqa: E402
from runner.figures import FIGURES, PEER_PROGRAMS  # noqa: E402
from runner.machine import describe_machine  # noqa: E402
from runner.programs import Broken, Programs, Unavailable, find_peers  # noqa: E402
from runner.rounds import Rounds  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
# The sizes of a quick run: of a large parent, of a ResourcePool that grows, of a pool whose start is measured.
QUICK_SIZES = {"DROVER_BENCH_MEMORY_MB": "512", "DROVER_BENCH_KEYS": "100000", "DROVER_BENCH_WORKERS": "64"}
QUICK_SLOW_PEERS = ("4GB", "64MiB")  # figures whose peers are too slow for a quick run


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", type=Path,
                        help="the build folder (default: the newest one below build/ that has benchmarks)")
    parser.add_argument("--out", type=Path,
                        help="the folder for the results (default: bench-results in the build folder)")
    parser.add_argument("--quick", action="store_true", help="take less than four minutes; the figures are rough")
    parser.add_argument("--only", action="append", metavar="T-7",
                        help="measure this figure, or those below it; may be given several times")
    parser.add_argument("--rounds", type=int, help="the number of rounds (default: 7, or 3 with --quick)")
    parser.add_argument("--seconds", type=float,
                        help="the time for one method in one round (default: 0.5, or 0.1 with --quick)")
    parser.add_argument("--cores", help="the two cores to use (default: the first two allowed ones, such as 0,1)")
    parser.add_argument("--no-peers", action="store_true", help="measure only drover and its baselines")
    parser.add_argument("--no-instructions", action="store_true",
                        help="do not count instructions and system calls with valgrind and strace")
    parser.add_argument("--continue", action="store_true", dest="goes_on",
                        help="run the rounds that an interrupted run of the same programs has left")
    parser.add_argument("--seed", type=int, help="the seed of the random order")
    return parser.parse_args()


def find_build(given):
    if given:
        return given.resolve()
    patterns = ("build*/bench/bench_call", "build*/*/bench/bench_call")
    builds = [path.parent.parent for pattern in patterns for path in ROOT.glob(pattern)]
    if not builds:
        sys.exit("There are no benchmarks below build/. Build them, or name the build folder with --build:\n"
                 "    cmake -B build/bench -G Ninja -DDROVER_DEVELOP=OFF -DDROVER_BUILD_BENCH=ON\n"
                 "    cmake --build build/bench")
    return max(builds, key=lambda path: (path / "bench" / "bench_call").stat().st_mtime)


def belongs(figure, only):
    return not only or any(figure.id == name or figure.id.startswith(name.rstrip("/") + "/") for name in only)


class Progress:
    """Reports progress: on a terminal in one line that is rewritten, otherwise with a line for each round."""

    def __init__(self, total):
        self.total, self.done, self.began, self.terminal = total, 0, time.monotonic(), sys.stderr.isatty()

    def step(self, what):
        self.done += 1
        if not self.terminal:
            return
        spent = time.monotonic() - self.began
        left = spent / self.done * (self.total - self.done)
        width = max(20, shutil.get_terminal_size().columns - 1)
        filled = 24 * self.done // self.total
        bar = "█" * filled + "░" * (24 - filled)
        line = f"{bar} {self.done}/{self.total}, {left:3.0f} s left, {what}"
        print(f"\r\x1b[K{line[:width]}", end="", file=sys.stderr, flush=True)

    def say(self, text):
        print(("\r\x1b[K" if self.terminal else "") + text, file=sys.stderr, flush=True)


class Run:
    def __init__(self, options):
        self.options = options
        self.build = find_build(options.build)
        self.rounds = options.rounds or (3 if options.quick else 7)
        self.seconds = options.seconds or (0.1 if options.quick else 0.5)
        allowed = sorted(os.sched_getaffinity(0))
        self.cores = options.cores or f"{allowed[0]},{allowed[min(1, len(allowed) - 1)]}"
        tiny = self.build / "bench" / "bench_tiny"
        self.environment = dict(os.environ) | {"DROVER_BENCH_CORES": self.cores, "DROVER_BENCH_TINY": str(tiny)}
        if options.quick:
            self.environment |= QUICK_SIZES
        timeout = 120 if options.quick else 600
        bench = self.build / "bench"
        self.programs = Programs(bench, self.environment, timeout)
        self.compiler = Compiler(bench, timeout)
        self.measures = {"program": self.programs, "compile": self.compiler, "signature": Signatures(self.compiler),
                         "instructions": Instructions(self.programs, not options.no_instructions),
                         "system calls": SystemCalls(self.programs, not options.no_instructions)}
        self.figures = [f for f in FIGURES if belongs(f, options.only) and (f.quick_rounds or not options.quick)]
        if not self.figures:
            sys.exit("There is no figure " + " or ".join(options.only))
        self.peers, self.left_out = {}, []
        if not options.no_peers:
            self.peers, self.left_out = find_peers(self.build, self.environment, PEER_PROGRAMS, timeout)
        if options.quick:
            self.left_out.append("A quick run uses 512 MB for 4 GB, 100,000 keys for more, and 64 workers for 1,000. "
                                 "It takes slow figures once, and leaves slow peers and these figures out: "
                                 + ", ".join(f.id for f in FIGURES if not f.quick_rounds) + ".")
        self.broken = []
        self.samples = {figure.id: [] for figure in self.figures}
        self.out = (options.out or self.build / "bench-results").resolve()
        self.kept = Rounds(self.out / "rounds.json", self.conditions())
        self.rounds_done = 0
        if not options.goes_on:
            self.kept.begin()
        else:
            self.rounds_done, self.samples, self.left_out, self.broken = self.kept.load()

    def conditions(self):
        bench = self.build / "bench"
        programs = sorted(p for pattern in ("bench_*", "peer_*") for p in bench.glob(pattern) if p.is_file())
        sources = [p for folder in ("include", "bench") for p in (ROOT / folder).rglob("*.[hcip]*") if p.is_file()]
        return {"programs": {p.name: p.stat().st_mtime_ns for p in programs},
                "sources": max(p.stat().st_mtime_ns for p in sources), "rounds": self.rounds, "seconds": self.seconds,
                "cores": self.cores, "quick": self.options.quick, "instructions": not self.options.no_instructions,
                "peers": sorted(self.peers), "figures": [figure.id for figure in self.figures]}

    def methods(self, figure, round_number):
        """Returns (name, function) for each method and peer to run for the figure in this round."""
        if round_number >= (figure.quick_rounds if self.options.quick else figure.full_rounds):
            return []
        measure = self.measures[figure.kind]
        found = [(m, lambda m=m: measure.run(figure, m, self.seconds)) for m in figure.methods]
        slow = self.options.quick and (round_number > 0 or any(part in figure.id for part in QUICK_SLOW_PEERS))
        for peer in [] if slow else self.peers.get(figure.id, []):
            found.append((peer.name, lambda peer=peer: peer.run(figure, self.seconds)))
        return found

    def measure(self):
        order = random.Random(self.options.seed)
        plans = []
        for number in range(self.rounds):
            plan = [(figure, self.methods(figure, number)) for figure in self.figures]
            order.shuffle(plan)
            plans.append(plan)
        progress = Progress(sum(len(methods) for plan in plans[self.rounds_done:] for _, methods in plan))
        for number, plan in enumerate(plans):
            if number < self.rounds_done:
                continue
            self.programs.begin_round()
            for figure, methods in plan:
                order.shuffle(methods)
                found = {}
                for name, run in methods:
                    progress.step(f"{figure.id} {name}")
                    try:
                        found[name] = run()
                    except Broken as error:
                        self.report_broken(progress, figure, name, error)
                if found:
                    self.samples[figure.id].append(found)
            self.kept.save(number + 1, self.samples, self.left_out, self.broken)
            progress.say(f"round {number + 1} of {self.rounds}: {time.monotonic() - progress.began:.0f} s")

    def report_broken(self, progress, figure, name, error):
        if isinstance(error, Unavailable):
            self.left_out.append(f"{figure.id} was not measured: {error}")
            return
        line = f"{figure.id}, {name}: {error}"
        progress.say(f"BROKEN {line}")
        if name in figure.methods:
            self.broken.append(line)
        else:  # a broken peer does not make the run fail
            self.left_out.append(f"{name} did not measure {figure.id} in one of the rounds: {error}")


def terminal_table(found):
    rows = [("figure", "raw", "drover", "", "ratio", "best", "met", "peers")]
    for r in found:
        peers = ", ".join(f"{name} {text.number(p['value'])}" for name, p in r["peers"].items())
        ratios = [f"{r[kind]:.2f}" if r.get(kind) is not None else "" for kind in ("ratio", "ratio_best")]
        rows.append((r["id"], text.number(r["raw"]), text.number(r["drover"]), r["unit"], *ratios,
                     results.verdict(r).replace("**", ""), peers))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.rjust(width) if i in (1, 2, 4, 5) else cell.ljust(width)
                 for i, (cell, width) in enumerate(zip(row, widths))]
        print("  ".join([*cells, row[-1]]))


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = arguments()
    try:
        run = Run(options)
    except Broken as error:
        sys.exit(str(error))
    machine = describe_machine(run.cores) | run.compiler.versions()
    if machine["load_before"] > 1.0 and not options.quick:
        print(f"The load is {machine['load_before']}: other processes disturb this run, so that only the ratios mean "
              "something.", file=sys.stderr)
    for line in run.left_out:
        print(line, file=sys.stderr)
    known = set(run.left_out)
    run.measure()
    found = [results.summarise(figure, run.samples[figure.id]) for figure in run.figures]

    out = run.out
    about = {"mode": "a quick run" if options.quick else "a full run", "rounds": run.rounds, "seconds": run.seconds,
             "machine": machine, "left_out": list(dict.fromkeys(run.left_out)), "broken": run.broken}
    results.write(out, found, about)
    charts.write(out, found)
    terminal_table(found)
    for line in dict.fromkeys(run.left_out):
        if line not in known:
            print(line)
    print(f"\n{out}/results.md, results.json and charts/*.svg")
    if run.broken:
        print("\nBroken benchmarks:\n" + "\n".join(run.broken), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
