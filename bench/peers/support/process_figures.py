"""The figures of python_process.py."""

import multiprocessing
import os
import platform
import subprocess
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import peer
from spawn_worker import worker

VERSION = "Python " + platform.python_version()
TINY = peer.tiny_program()


# subprocess ----------------------------------------------------------------------------------------------------------


def spawn():
    words = [TINY] if TINY else ["/bin/sh", "-c", "echo x >&2"]
    start = time.perf_counter()
    # With close_fds=False and a path, subprocess uses posix_spawn, otherwise vfork.
    child = subprocess.Popen(words, stderr=subprocess.PIPE, close_fds=False, bufsize=0)
    got = child.stderr.read(1)
    taken = time.perf_counter() - start
    child.wait()
    child.stderr.close()
    if not got:
        raise RuntimeError("the tiny program wrote nothing")
    return taken


def spawn_from(size):
    def run(_, seconds):
        memory = peer.ballast(size)
        result = peer.median_of(seconds, spawn)
        del memory
        return result

    return run


# multiprocessing -----------------------------------------------------------------------------------------------------

SPAWN = multiprocessing.get_context("spawn")


class Worker:
    def __init__(self):
        self.connection, theirs = SPAWN.Pipe()
        start = time.perf_counter()
        self.process = SPAWN.Process(target=worker, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.connection.recv_bytes()
        self.start_up = time.perf_counter() - start

    def stop(self):
        self.connection.send_bytes(b"x")
        self.process.join()

    def terminate(self):
        self.process.terminate()
        self.process.join()

    def close(self):
        self.process.close()
        self.connection.close()


def start_up():
    one = Worker()
    one.stop()
    one.close()
    return one.start_up


def ending(how):
    def once():
        one = Worker()
        start = time.perf_counter()
        how(one)
        taken = time.perf_counter() - start
        one.close()
        return taken

    return once


def sampled(once):
    return lambda _, seconds: peer.median_of(seconds, once)


# ProcessPoolExecutor -------------------------------------------------------------------------------------------------


def echo(payload):
    return payload


def initialize(core, parent):
    peer.end_with_parent(parent)
    peer.pin(core)


def pool(two):
    mine, other = peer.cores()
    executor = ProcessPoolExecutor(1, initializer=initialize, initargs=(other if two else mine, os.getpid()))
    executor.submit(echo, b"").result()  # the worker is running now
    peer.pin(mine)
    return executor


def latency(two):
    payload = bytes(peer.SMALL_PAYLOAD)

    def run(_, seconds):
        with pool(two) as executor:

            def once():
                start = time.perf_counter()
                executor.submit(echo, payload).result()
                return time.perf_counter() - start

            return peer.median_of(seconds, once)

    return run


def rate(two):
    payload = bytes(peer.SMALL_PAYLOAD)

    def run(_, seconds):
        with pool(two) as executor:
            measured, ended, left = peer.Rate(seconds), threading.Event(), [peer.IN_FLIGHT]

            def submit():
                executor.submit(echo, payload).add_done_callback(done)

            def done(_):  # runs on the executor's own thread only
                if measured.next():
                    submit()
                    return
                left[0] -= 1
                if left[0] == 0:
                    ended.set()

            for _ in range(peer.IN_FLIGHT):
                submit()
            ended.wait()
            return measured.result()

    return run


# ---------------------------------------------------------------------------------------------------------------------


def figures():
    child = "the tiny program" if TINY else "/bin/sh (DROVER_BENCH_TINY is not set)"
    spawning = f"Popen of {child} with close_fds=False, which uses posix_spawn; {VERSION}"
    processes = "spawn method, through a Pipe; " + VERSION
    pooled = "one worker, which was forked; through pipes and a thread of the executor; " + VERSION
    return [
        ("T-1/10MB", "python-subprocess", spawning, spawn_from(10 << 20)),
        ("T-1/4GB", "python-subprocess", spawning, spawn_from(peer.large_parent())),
        ("T-3", "python-multiprocessing", processes, sampled(start_up)),
        ("T-4", "python-multiprocessing", "terminate and join; " + VERSION, sampled(ending(Worker.terminate))),
        ("T-5", "python-multiprocessing", processes, sampled(ending(Worker.stop))),
        ("T-7/1c", "python-process-pool", pooled, latency(False)),
        ("T-7/2c", "python-process-pool", pooled, latency(True)),
        ("T-8/1c", "python-process-pool", pooled, rate(False)),
        ("T-8/2c", "python-process-pool", pooled, rate(True)),
    ]
