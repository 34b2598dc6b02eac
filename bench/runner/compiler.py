"""Measures what the compiler takes for files that include drover."""

import json
import os
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path

from .programs import BENCH, Broken, Sample, Unavailable


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

    def run(self, figure, method, _seconds):
        source = BENCH / "compile" / self.SOURCES[method]
        level = figure.id.rsplit("/", 1)[1]
        cpu, memory = self.compile(source, level, os.devnull, separately=method == "drover")
        return Sample(cpu, {"memory_mib": memory})

    def compile(self, source, level, output, separately):
        """Returns the CPU time in seconds and the peak of the memory in MiB."""
        separate = ["-DDROVER_SEPARATE_COMPILATION"] if separately else []
        command = [*self.command, *separate, f"-{level}", "-c", str(source), "-o", str(output)]
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
        return cpu, memory


class Signatures:
    """T-13/signature: what each further signature of a call adds to a file. The same file is compiled with calls of one
    signature and of eleven; a tenth of the difference is the result. "awaitable" awaits a coroutine that returns a value
    of the same type, and makes no call: what asio::awaitable takes for each type of result."""

    TYPES = ("int", "double", "std::string", "std::vector<int>", "std::map<std::string, int>", "std::optional<int>",
             "std::tuple<int, std::string>", "std::vector<std::string>", "std::pair<int, double>", "std::uint64_t",
             "bool")
    HEADERS = ("cstdint", "map", "optional", "string", "tuple", "utility", "vector", "drover/drover.hpp")

    def __init__(self, compiler):
        self.compiler = compiler

    def source(self, method, count):
        lines = [f"#include <{header}>" for header in self.HEADERS]
        lines += ["template <class T>", "asio::awaitable<T> value_of(T value) { co_return value; }",
                  "asio::awaitable<void> call(drover::WorkerPool& pool);",
                  "asio::awaitable<void> call(drover::WorkerPool& pool) {"]
        for number, name in enumerate(self.TYPES[:count]):
            lines += ["  {", f"    const {name} argument{{}};",
                      "    co_await value_of(argument);" if method == "awaitable" else
                      f'    co_await pool.call<{name}>("routine {number}", argument, {number});', "  }"]
        return "\n".join([*lines, "  (void)pool;", "}", ""])

    def run(self, figure, method, _seconds):
        size = shutil.which("size")
        if not size:
            raise Unavailable("size, a program of binutils, is not installed")
        cpu, code = [], []
        with tempfile.TemporaryDirectory() as folder:
            for count in (1, len(self.TYPES)):
                source, output = Path(folder) / f"{count}.cpp", Path(folder) / f"{count}.o"
                source.write_text(self.source(method, count))
                cpu.append(self.compiler.compile(source, figure.id.rsplit("/", 1)[1], output, separately=True)[0])
                printed = subprocess.run([size, str(output)], capture_output=True, text=True, timeout=60).stdout
                code.append(int(printed.splitlines()[1].split()[0]))
        further = len(self.TYPES) - 1
        return Sample((cpu[1] - cpu[0]) / further * 1000, {"code_kb": (code[1] - code[0]) / further / 1000})
