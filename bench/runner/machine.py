"""Describes the machine that the results are from."""

import os
import sys
import time
from pathlib import Path


def _processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def describe_machine(cores):
    lines = Path("/proc/meminfo").read_text().splitlines()
    memory = next((line.split()[1] for line in lines if line.startswith("MemTotal:")), "0")
    return {"processor": _processor(), "cores": os.cpu_count(), "pinned_to": cores,
            "memory_gib": round(int(memory) / 2**20, 1), "kernel": os.uname().release.split("-")[0],
            "load_before": round(os.getloadavg()[0], 2), "python": sys.version.split()[0],
            "date": time.strftime("%Y-%m-%d %H:%M:%S%z")}
