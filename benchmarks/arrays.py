"""Reading and writing arrays beside an earlier version of this package.

    python -m benchmarks.arrays local --other PYTHON --checkout FOLDER
    python -m benchmarks.arrays windows --other PYTHON --checkout FOLDER

`--other` is the Python of an environment in which that version runs, `--checkout` its source. `local`: a volume of 512³
float32 is written and read in one process of its own each, in turn, and the best of some runs is printed: wall and CPU
seconds, and the peak of the memory beyond that before. `windows`: 27 windows of 160³ through a proxy before an S3
server; its requests and bytes are counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

EDGE = 512
# Run by either version: its imports are what both have.
_PROGRAM = """
import json, os, resource, sys, threading, time
import numpy as np
from membrain_cloud.geometry import Box
from membrain_cloud.store.objects.io_meter import Meter
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.volumes.zarr_array import ChunkedArray
try:
    from membrain_cloud.store.volumes.array_format import ArrayFormat
except ImportError:
    from membrain_cloud.store.volumes.zarr_array import ArrayFormat
what, url, options, keywords = json.loads(sys.argv[1])
files, edge = Files(url, options), keywords.pop("edge")
chunk = keywords.pop("chunk")

class Peak:
    # The largest resident set while it is entered, beyond that before, in MB.
    def __enter__(self):
        self.before = self.top = self.now()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch); self.thread.start()
        return self
    def now(self):
        return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
    def watch(self):
        while not self.done.wait(0.002):
            self.top = max(self.top, self.now())
    def __exit__(self, *_):
        self.done.set(); self.thread.join()

rng = np.random.default_rng(0)
small = rng.normal(size=(64, 64, 64)).astype(np.float32)
found = {}
if what == "write":
    values = np.tile(small, (edge // 64,) * 3) + np.arange(edge, dtype=np.float32)
    meter = Meter(late=True)
    array = ChunkedArray.create(
        files.metered(meter), "a", ArrayFormat.plain(values.shape, (chunk,) * 3, values.dtype, **keywords)
    )
    part = 256
    with Peak() as peak:
        wall, cpu = time.perf_counter(), time.process_time()
        for z in range(0, edge, part):
            for y in range(0, edge, part):
                for x in range(0, edge, part):
                    box = Box((z, y, x), (z + part, y + part, x + part))
                    array.write(box, values[box.slices])
        meter.flush()
        found = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    found["peak_mb"] = peak.top - peak.before
elif what == "read":
    array = ChunkedArray.open(files, "a")
    array.read(Box((0, 0, 0), (1, 1, 1)))
    with Peak() as peak:
        wall, cpu = time.perf_counter(), time.process_time()
        values = array.read(array.box)
        found = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    found["peak_mb"] = peak.top - peak.before
    found["sum"] = float(values[::7, ::7, ::7].sum(dtype=np.float64))
else:
    meter = Meter()
    array = ChunkedArray.open(files.metered(meter), "a")
    total, wall, cpu = 0.0, time.perf_counter(), time.process_time()
    with Peak() as peak:
        for z in range(3):
            for y in range(3):
                for x in range(3):
                    start = tuple(int(i * (edge - 160) / 2) for i in (z, y, x))
                    total += float(array.read(Box(start, tuple(s + 160 for s in start)))[::9, ::9, ::9].sum())
        found = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "sum": total}
    found["mb_read"] = meter.bytes_read / 1e6
    found["peak_mb"] = peak.top - peak.before
print(json.dumps(found))
"""


def execute(
    python: str, checkout: str, what: str, url: str, options: dict[str, Any], **keywords: Any
) -> dict[str, Any]:
    """Run the program in a process of a version; return what it measured."""
    arguments = json.dumps([what, url, options, keywords])
    environment = os.environ | {"PYTHONPATH": checkout}
    done = subprocess.run(
        [python, "-c", _PROGRAM, arguments], env=environment, cwd="/", capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def local(sides: dict[str, tuple[str, str]], runs: int) -> None:
    """Print wall, CPU seconds and memory of writing and reading on this machine's disk."""
    layouts: dict[str, dict[str, Any]] = {"chunk 128": {"chunk": 128}, "chunk 256": {"chunk": 256}}
    sharded = {"chunk": 128, "zarr_format": 3, "shard": (256, 256, 256)}
    with tempfile.TemporaryDirectory() as folder:
        for name, layout in (layouts | {"sharded 128 in 256": sharded}).items():
            for what in ("write", "read"):
                best: dict[str, dict[str, float]] = {}
                for _ in range(runs):
                    for side, (python, checkout) in sides.items():
                        if side == "other" and "shard" in layout:
                            continue
                        found = execute(python, checkout, what, f"{folder}/{side}-{name}", {}, edge=EDGE, **layout)
                        kept = best.setdefault(side, found)
                        best[side] = {key: min(kept[key], found[key]) for key in found}
                for side, found in best.items():
                    numbers = "  ".join(f"{key} {value:8.2f}" for key, value in found.items() if key != "sum")
                    print(f"{what:6} {name:20} {side:6} {numbers}", flush=True)
                assert len({found.get("sum") for found in best.values()}) == 1


def windows(sides: dict[str, tuple[str, str]]) -> None:
    """Print requests and bytes of 27 windows from S3."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from moto.server import ThreadedMotoServer
    from standins.fault_proxy import FaultProxy

    from membrain_cloud.store.objects.object_store import Files

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    layouts: dict[str, dict[str, Any]] = {
        "chunk 128": {"chunk": 128},
        "sharded 128 in 256": {"chunk": 128, "zarr_format": 3, "shard": (256, 256, 256)},
        "sharded 64 in 256": {"chunk": 64, "zarr_format": 3, "shard": (256, 256, 256)},
    }
    with FaultProxy(server.get_host_and_port()[1]) as proxy:
        options = {"key": "x", "secret": "x", "endpoint_url": proxy.url}
        for number, (name, layout) in enumerate(layouts.items()):
            bucket = f"windows-{number}"
            Files(f"s3://{bucket}", options).filesystem.mkdir(bucket)
            execute(*sides["ours"], "write", f"s3://{bucket}", options, edge=EDGE, **layout)
            for side, (python, checkout) in sides.items():
                if side == "other" and "shard" in layout:
                    continue
                proxy.requests.clear()
                found = execute(python, checkout, "windows", f"s3://{bucket}", options, edge=EDGE, **layout)
                print(
                    f"{name:20} {side:6} requests {len(proxy.requests):5}  MB {found['mb_read']:8.1f}  "
                    f"wall {found['wall']:.1f}  cpu {found['cpu']:.2f}  peak_mb {found['peak_mb']:.0f}",
                    flush=True,
                )
    server.stop()


def main() -> None:
    """Parse the command line and print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("what", choices=["local", "windows"])
    parser.add_argument("--other", help="Python of the other version's environment")
    parser.add_argument("--checkout", help="source folder of the other version")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    sides = {"ours": (sys.executable, str(Path(__file__).parents[1]))}
    if arguments.other:
        sides["other"] = (arguments.other, arguments.checkout)
    if arguments.what == "local":
        local(sides, arguments.runs)
    else:
        windows(sides)


if __name__ == "__main__":
    main()
