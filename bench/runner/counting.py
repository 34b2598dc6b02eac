"""Counts what one operation takes: the instructions with callgrind, the system calls with strace."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from .programs import Broken, Sample, Unavailable, benchmark_filter


class _Counter:
    """Runs a benchmark twice, with few iterations and with many. The difference leaves out what is done once."""

    tool = ""

    def __init__(self, programs, wanted=True):
        self.programs, self.wanted, self.done = programs, wanted, {}

    def run(self, figure, method, _seconds):
        if not self.wanted:
            raise Unavailable("it was not asked for")
        path = shutil.which(self.tool)
        if not path:
            raise Unavailable(f"{self.tool} is not installed")
        key = figure.program, figure.benchmark(method), figure.count
        if key not in self.done:
            less, more = (self._count_in_folder(path, figure, method, n) for n in (figure.count.few, figure.count.many))
            operations = (figure.count.many - figure.count.few) * figure.count.operations
            # To a hundredth: a wake-up more or less in thousands of calls is not part of a call.
            self.done[key] = {process: round((more[process] - less[process]) / operations, 2) for process in more}
        return Sample(self.done[key][figure.counters[method]], {})

    def _count_in_folder(self, path, figure, method, iterations):
        with tempfile.TemporaryDirectory() as folder:
            return self._count(path, Path(folder), figure, method, iterations)

    def _execute(self, command, figure, method, iterations):
        """Runs the benchmark below the tool. Returns its process id."""
        program = str(self.programs.path(figure.program))
        variables = {"DROVER_BENCH_ITERATIONS": str(iterations), "DROVER_BENCH_SELF": program}
        started = subprocess.Popen([*command, program, benchmark_filter(figure.benchmark(method))],
                                   env=self.programs.environment | variables, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            output, errors = started.communicate(timeout=self.programs.timeout)
        except subprocess.TimeoutExpired:
            started.kill()
            started.communicate()
            raise Broken(f"{figure.benchmark(method)} did not exit below {self.tool}") from None
        if started.returncode != 0 or "ERROR OCCURRED" in output:
            said = (errors.strip() or output.strip()).splitlines()
            raise Unavailable(f"it failed below {self.tool}" + (f": {said[-1]}" if said else ""))
        return started.pid


class Instructions(_Counter):
    """In user space. Unlike times, the counts hardly vary."""

    tool = "valgrind"

    def _count(self, path, folder, figure, method, iterations):
        children = "yes" if figure.count.worker else "no"  # a child that is not traced runs at full speed
        command = [path, "--tool=callgrind", f"--trace-children={children}",
                   f"--callgrind-out-file={folder}/callgrind.%p"]
        parent = self._execute(command, figure, method, iterations)
        counts = {"parent": 0, "worker": 0}
        for file in folder.glob("callgrind.*"):
            process = "parent" if file.name.split(".")[1] == str(parent) else "worker"
            counts[process] += sum(int(line.split()[1]) for line in file.read_text().splitlines()
                                   if line.startswith("totals:"))
        return counts


class SystemCalls(_Counter):
    """Of all threads of the parent, and of all other processes together."""

    tool = "strace"
    CALL = re.compile(r"\w+\(")
    NEW_THREAD = re.compile(r"clone3?\(.*CLONE_THREAD.* = (\d+)$")

    def _count(self, path, folder, figure, method, iterations):
        command = [path, "-f", "-ff", "-qq", "-s", "0", "-o", f"{folder}/calls"]
        self._execute(command, figure, method, iterations)
        calls = {file.suffix[1:]: file.read_text().splitlines() for file in folder.glob("calls.*")}
        if not calls:
            raise Unavailable("strace wrote nothing")
        program = f'execve("{self.programs.path(figure.program)}"'
        parent = min((pid for pid, lines in calls.items() if lines and lines[0].startswith("execve(")), key=int,
                     default=None)
        if parent is None:
            raise Unavailable(f"strace did not show {program}")
        threads, unread = set(), [parent]
        while unread:
            thread = unread.pop()
            threads.add(thread)
            found = (self.NEW_THREAD.match(line) for line in calls.get(thread, []))
            unread += [match.group(1) for match in found if match]
        counts = {"parent": 0, "worker": 0}
        for pid, lines in calls.items():
            counts["parent" if pid in threads else "worker"] += sum(1 for line in lines if self.CALL.match(line))
        return counts
