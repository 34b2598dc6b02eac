#!/usr/bin/env python3
"""Python's standard library: subprocess, multiprocessing with the spawn method, and ProcessPoolExecutor."""

if __name__ == "__main__":  # the spawn method imports this file in each child, which needs nothing of it
    import os
    import sys

    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # for the children
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "support"))

    import peer
    import process_figures

    sys.exit(peer.main(process_figures.figures()))
