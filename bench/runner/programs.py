"""Runs one method once: a Google Benchmark program, a peer, or the compiler. Returns a Sample or raises Broken."""

import json
import os
import re
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent


class Broken(Exception):
    """A benchmark failed. Slowness alone is no failure, unless it exceeds the time limit."""


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


def _filter(name):
    """An extended regular expression that matches one benchmark. re.escape() escapes more than POSIX allows."""
    escaped = re.sub(r"([.^$*+?()\[\]{}|\\])", r"\\\1", name)
    return f"--benchmark_filter=^{escaped}(/|$)"


class Programs:
    """The benchmark programs of one build."""

    STANDARD = ("name", "run_name", "run_type", "repetitions", "repetition_index", "threads", "iterations", "real_time",
                "cpu_time", "time_unit", "family_index", "per_family_instance_index", "value", "aggregate_name")

    def __init__(self, folder, environment, timeout):
        self.folder, self.environment, self.timeout = folder, environment, timeout

    def path(self, program):
        return self.folder / f"bench_{program}"

    def run(self, figure, method, seconds):
        name = figure.benchmark(method)
        command = [str(self.path(figure.program)), _filter(name),
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
            raise Broken(f"{name}: {entry.get('error_message') or entry.get('skip_message')}")
        counters = {key: value for key, value in entry.items()
                    if key not in self.STANDARD and isinstance(value, (int, float))}
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


class Compiler:
    """T-13: compiles with the options of the benchmarks. The driver and the compiler proper are measured together."""

    SOURCES = {"raw": "selective_asio.cpp", "drover": "drover_call.cpp", "header-only": "drover_call.cpp",
               "program": "drover_program.cpp"}

    def __init__(self, folder, timeout):
        self.timeout = timeout
        try:
            described = json.loads((folder / "compiler.json").read_text())
        except (OSError, ValueError):
            raise Broken(f"{folder}/compiler.json is missing: configure with -DDROVER_BUILD_BENCH=ON") from None
        includes = [f"-I{path}" for path in dict.fromkeys(described["include"]) if path and path != "/usr/include"]
        definitions = [f"-D{name}" for name in described["definitions"]
                       if name not in ("", "DROVER_SEPARATE_COMPILATION")]
        self.command = [described["compiler"], "-std=c++20", *includes, *definitions]

    def versions(self):
        """The versions of the compiler, and of the Asio that it includes."""
        def output(arguments, text=None):
            return subprocess.run([*arguments], input=text, capture_output=True, text=True, timeout=self.timeout).stdout

        compiler = output([self.command[0], "--version"]).split("\n")[0]
        source = "#include <asio/version.hpp>\nASIO_VERSION"
        words = output([*self.command, "-E", "-P", "-x", "c++", "-"], source).split()
        asio = int(words[-1]) if words and words[-1].isdigit() else 0
        return {"compiler": compiler, "asio": f"{asio // 100000}.{asio // 100 % 1000}.{asio % 100}"}

    def run(self, figure, method, seconds):
        source = BENCH / "compile" / self.SOURCES[method]
        level = figure.id.rsplit("/", 1)[1]
        separate = ["-DDROVER_SEPARATE_COMPILATION"] if method == "drover" else []
        command = [*self.command, *separate, f"-{level}", "-c", str(source), "-o", os.devnull]
        # RUSAGE_CHILDREN counts all children that have exited, so each compilation has a process of its own.
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(reading)
                done = subprocess.run(command, capture_output=True, text=True, timeout=self.timeout,
                                      stdin=subprocess.DEVNULL, env=os.environ | {"CCACHE_DISABLE": "1"})
                used = resource.getrusage(resource.RUSAGE_CHILDREN)
                result = [used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, done.stderr[-500:]]
                os.write(writing, json.dumps(result).encode())
                code = done.returncode
            finally:
                os._exit(code)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            text = pipe.read()
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
            raise Broken(f"{' '.join(command)} failed: {text}")
        cpu, memory, _ = json.loads(text)
        return Sample(cpu, {"memory_mib": memory})


class Instructions:
    """Counts the instructions of one operation in the parent and in the worker, with callgrind, in user space only. The
    difference of a longer and a shorter run leaves out what is done once. Unlike times, the counts hardly vary."""

    def __init__(self, programs, valgrind, folder):
        self.programs, self.valgrind, self.folder = programs, valgrind, folder

    def _count(self, figure, method, iterations):
        for old in self.folder.glob("callgrind.*"):
            old.unlink()
        program = str(self.programs.path(figure.program))
        command = [self.valgrind, "--tool=callgrind", "--trace-children=yes",
                   f"--callgrind-out-file={self.folder}/callgrind.%p", program, _filter(figure.benchmark(method))]
        variables = {"DROVER_BENCH_ITERATIONS": str(iterations), "DROVER_BENCH_SELF": program}
        started = subprocess.Popen(command, env=self.programs.environment | variables, stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True)
        try:
            output, _ = started.communicate(timeout=self.programs.timeout)
        except subprocess.TimeoutExpired:
            started.kill()
            started.communicate()
            raise Broken(f"{figure.id}/{method} did not exit under callgrind") from None
        if started.returncode != 0 or "ERROR OCCURRED" in output:
            raise Broken(f"{figure.id}/{method} failed under callgrind")
        counts = {"parent": 0, "worker": 0}
        for path in self.folder.glob("callgrind.*"):
            process = "parent" if path.name.split(".")[1] == str(started.pid) else "worker"
            for line in path.read_text().splitlines():
                if line.startswith("totals:"):
                    counts[process] += int(line.split()[1])
        return counts

    def run(self, figure, method, few, many, operations=1):
        less, more = self._count(figure, method, few), self._count(figure, method, many)
        return {process: (more[process] - less[process]) / (many - few) / operations for process in more}


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def describe_machine(cores):
    lines = Path("/proc/meminfo").read_text().splitlines()
    memory = next((line.split()[1] for line in lines if line.startswith("MemTotal:")), "0")
    return {"processor": processor(), "cores": os.cpu_count(), "pinned_to": cores,
            "memory_gib": round(int(memory) / 2**20, 1), "kernel": os.uname().release.split("-")[0],
            "load_before": round(os.getloadavg()[0], 2), "python": sys.version.split()[0],
            "date": time.strftime("%Y-%m-%d %H:%M:%S%z")}
