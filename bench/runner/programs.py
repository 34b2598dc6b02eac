"""Runs one method once: a Google Benchmark program, or a peer. Returns a Sample or raises Broken."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent


class Broken(Exception):
    """A benchmark failed. Slowness alone is no failure, unless it exceeds the time limit."""


class Unavailable(Broken):
    """The machine lacks something that the figure needs. The results say what, and the run does not fail."""


@dataclass
class Sample:
    value: float
    counters: dict = field(default_factory=dict)
    note: str = ""


def _run(command, environment, seconds):
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds,
                              stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise Broken(f"{command[0]} did not exit within {seconds:g} s") from None
    except OSError as error:
        raise Broken(f"{command[0]}: {error}") from None
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Broken(f"{' '.join(map(str, command))}: exit code {done.returncode}" + (f": {last[-1]}" if last else ""))
    return done.stdout


def benchmark_filter(name):
    """An extended regular expression that matches one benchmark. re.escape() escapes more than POSIX allows."""
    escaped = re.sub(r"([.^$*+?()\[\]{}|\\])", r"\\\1", name)
    return f"--benchmark_filter=^{escaped}(/|$)"


class Programs:
    """The benchmark programs of one build."""

    NO_COUNTERS = ("name", "run_name", "run_type", "repetitions", "repetition_index", "threads", "iterations",
                   "real_time", "cpu_time", "time_unit", "family_index", "per_family_instance_index", "value",
                   "aggregate_name")
    UNAVAILABLE = "unavailable: "  # how the message of bench::Unavailable begins

    def __init__(self, folder, environment, timeout):
        self.folder, self.environment, self.timeout = folder, environment, timeout
        self.shared = {}  # benchmarks of this round that several figures take a counter from: Sample or Broken

    def path(self, program):
        return self.folder / f"bench_{program}"

    def begin_round(self):
        self.shared.clear()

    def run(self, figure, method, seconds):
        counter = figure.counters.get(method)
        if counter is None:
            return self._run_benchmark(figure, method, seconds)
        key = figure.program, figure.benchmark(method)
        if key not in self.shared:
            try:
                self.shared[key] = self._run_benchmark(figure, method, seconds)
            except Broken as error:
                self.shared[key] = error
        found = self.shared[key]
        if isinstance(found, Broken):
            raise found
        if counter not in found.counters:
            raise Broken(f"{key[1]} has no counter {counter}")
        return Sample(found.counters[counter], found.counters)

    def _run_benchmark(self, figure, method, seconds):
        name = figure.benchmark(method)
        command = [str(self.path(figure.program)), benchmark_filter(name),
                   "--benchmark_format=json", f"--benchmark_min_time={seconds:g}"]
        text = _run(command, self.environment | {"DROVER_BENCH_SECONDS": str(seconds)}, self.timeout)
        try:
            found = [b for b in json.loads(text[text.index("{"):])["benchmarks"] if b.get("run_type") != "aggregate"]
        except (ValueError, KeyError):
            raise Broken(f"{command[0]} printed no JSON for {name}") from None
        if not found:
            raise Broken(f"{command[0]} has no benchmark {name}")
        entry = found[0]
        if entry.get("error_occurred") or entry.get("skipped"):
            said = entry.get("error_message") or entry.get("skip_message") or "it failed"
            if said.startswith(self.UNAVAILABLE):
                raise Unavailable(said[len(self.UNAVAILABLE):])
            raise Broken(f"{name}: {said}")
        counters = {key: value for key, value in entry.items()
                    if key not in self.NO_COUNTERS and isinstance(value, (int, float))}
        # A benchmark without the counter "value" is a loop on one thread, whose CPU time is the result.
        return Sample(entry["value"] if "value" in entry else entry["cpu_time"], counters)


class Peer:
    """One peer in one program of bench/peers."""

    def __init__(self, name, command, environment, timeout):
        self.name, self.command, self.environment, self.timeout = name, command, environment, timeout

    def run(self, figure, seconds):
        command = [*self.command, "--run", figure.id, "--peer", self.name, "--seconds", f"{seconds:g}"]
        text = _run(command, self.environment, self.timeout)
        try:
            answer = json.loads(text.strip().splitlines()[-1])
            value, unit = float(answer["value"]), answer["unit"]
        except (ValueError, KeyError, IndexError, TypeError):
            raise Broken(f"{self.name} printed no result for {figure.id}") from None
        if unit != figure.unit:
            raise Broken(f"{self.name} measured {figure.id} in {unit}, not in {figure.unit}")
        return Sample(value, {}, answer.get("note", ""))


def find_peers(build, environment, expected, timeout):
    """Returns a dict from a figure's id to its peers, and a message for each program that is left out."""
    programs = {name: [str(build / "bench" / f"peer_{name}")] for name in expected}
    for path in build.rglob("peer_*"):
        if path.is_file() and os.access(path, os.X_OK) and not path.suffix and path.name != "peer_tiny":
            programs[path.name[len("peer_"):]] = [str(path)]
    for path in sorted((BENCH / "peers").glob("*.py")):
        programs[path.stem] = [sys.executable, str(path)]

    found, left_out = {}, []
    for name, command in sorted(programs.items()):
        if len(command) == 1 and not os.path.exists(command[0]):
            left_out.append(f"{name} is left out: {expected[name]} was not installed when the benchmarks were built")
            continue
        try:
            lines = _run([*command, "--list"], environment, timeout).split("\n")
        except Broken as error:
            left_out.append(f"{name} is left out: {error}")
            continue
        offered = [line.split(maxsplit=1) for line in lines if line.startswith("T-")]  # a peer's name may have spaces
        if not offered:
            left_out.append(f"{name} is left out: it can measure nothing here")
        for figure, *peer in offered:
            found.setdefault(figure, []).append(Peer(peer[0] if peer else name, command, environment, timeout))
    return found, left_out
