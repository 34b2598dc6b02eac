"""What a figure consists of: methods, a target, and how it is measured."""

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
class Count:
    """Instructions or system calls are counted in a short run and in a long one. The difference leaves out what is done
    once in a run."""

    few: int  # iterations of the benchmark
    many: int
    operations: int = 1  # in an iteration
    worker: bool = True  # whether the workers are counted, too


@dataclass(frozen=True)
class Series:
    """A line in the chart of a figure of growth: methods by size, the smallest first."""

    name: str
    sizes: dict


@dataclass(frozen=True)
class Figure:
    id: str
    title: str
    unit: str
    program: str = ""
    kind: str = "program"  # program, compile, signature, instructions or system calls: what measures it
    ratio: float = 0.0  # the bound on drover / raw: at most, or at least if more is better; 0: none
    value: float = 0.0  # the bound on drover's number; 0: none
    fair: float = 0.0  # the bound on drover / threads, the prototype with drover's guarantees; 0: none
    bounds: dict = field(default_factory=dict)  # method: the bound on its number
    more_is_better: bool = False
    ahead_of: tuple = ()  # the beginnings of the names of peers that drover has to beat; "*": all
    ahead_by: float = 1.0  # and by how much
    limits: tuple = ()
    methods: tuple = ("raw", "drover")
    names: dict = field(default_factory=dict)  # method: name of its benchmark, if not FIGURE/METHOD
    labels: dict = field(default_factory=dict)  # method: its description in the results
    counters: dict = field(default_factory=dict)  # method: the counter of its benchmark that counts, if not "value"
    count: Count = None
    quick_rounds: int = 1000  # it is measured in at most so many rounds of a quick run
    full_rounds: int = 1000
    series: tuple = ()
    axis: str = ""  # what the sizes of the series are
    size: int = 0  # that the title names, if a quick run measures a smaller one
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
        if self.fair:
            parts.append(f"{sign} {self.fair:g} x {self.label('threads')}")
        parts += [f"{self.label(method)} {sign} {bound:g} {self.unit}" for method, bound in self.bounds.items()]
        parts += [limit.text for limit in self.limits]
        by = f" by {self.ahead_by:g} x" if self.ahead_by != 1 else ""
        if "*" in self.ahead_of:
            parts.append("ahead of every peer" + by)
        elif self.ahead_of:
            parts.append("ahead of " + ", ".join(self.ahead_of) + by)
        return "; ".join(parts)
