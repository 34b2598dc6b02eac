#!/usr/bin/env python3
"""gRPC's asyncio API in Python. Arguments and results are plain bytes: a message class would only make calls slower."""

import asyncio
import os
import platform
import sys
import time

sys.dont_write_bytecode = True
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # for the children
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "support"))

import peer

DEBIAN = "/usr/bin/python3"

try:
    import grpc
    import grpc.aio

    MISSING = None
except ImportError as error:
    MISSING = f"peer python-grpc-aio is left out: {error} (Debian: python3-grpcio)"
    # Debian installs the package for its own Python, which need not be the first one in PATH.
    if os.path.exists(DEBIAN) and not os.path.samefile(sys.executable, DEBIAN):
        os.execv(DEBIAN, [DEBIAN, *sys.argv])

SERVICE, METHOD = "peers.Echo", "Call"


async def call(request, _):
    return request


async def serve_until_killed(path):
    handlers = {METHOD: grpc.unary_unary_rpc_method_handler(call)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port("unix:" + path)
    await server.start()
    peer.report_listening()
    await server.wait_for_termination()


def serve(_, path):
    asyncio.run(serve_until_killed(path))


async def latency(method, seconds):
    payload, values = bytes(peer.SMALL_PAYLOAD), []
    begin = time.monotonic()
    while time.monotonic() < begin + seconds / 5:
        await method(payload)
    begin = time.monotonic()
    while len(values) < 5 or time.monotonic() < begin + seconds:
        start = time.perf_counter()
        await method(payload)
        values.append(time.perf_counter() - start)
    return peer.median_in_us(values)


async def rate(method, seconds):
    payload, measured = bytes(peer.SMALL_PAYLOAD), peer.Rate(seconds)

    async def call_repeatedly():
        await method(payload)
        while measured.next():
            await method(payload)

    await asyncio.gather(*(call_repeatedly() for _ in range(peer.IN_FLIGHT)))
    return measured.result()


async def connected(path, measure, seconds):
    async with grpc.aio.insecure_channel("unix:" + path) as channel:
        await channel.channel_ready()
        return await measure(channel.unary_unary(f"/{SERVICE}/{METHOD}"), seconds)


def measuring(measure, two):
    def run(folder, seconds):
        mine, other = peer.cores()
        path = os.path.join(folder, "socket")
        with peer.Server("python-grpc-aio", path, other if two else mine):
            peer.pin(mine)
            return asyncio.run(connected(path, measure, seconds))

    return run


def figures():
    versions = f"gRPC {grpc.__version__}, Python {platform.python_version()}"
    note = f"plain bytes without protobuf, asyncio's own loop; {versions}"
    return [
        (f"{figure}/{'2c' if two else '1c'}", "python-grpc-aio", note, measuring(measure, two))
        for figure, measure in (("T-7", latency), ("T-8", rate))
        for two in (False, True)
    ]


if __name__ == "__main__":
    sys.exit(peer.main([] if MISSING else figures(), MISSING, serve))
