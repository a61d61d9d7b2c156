"""Many threads may read different kinds for the first time at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

STORED = Path(__file__).parent / "data/etcd.jsonl"
READ = """
import json, pathlib, sys, threading
from calico_kernel.model import codec, keys
sys.setswitchinterval(1e-6)
lines = [json.loads(line) for line in pathlib.Path(sys.argv[1]).read_text().splitlines()]
records = [(key, json.dumps(one["value"]).encode()) for one in lines if (key := keys.parse(one["key"]))]
start = threading.Barrier(8)
def work(first):
    start.wait()
    for key, raw in records[first:] + records[:first]:
        codec.decode(key, raw)
threads = [threading.Thread(target=work, args=(number * 5,)) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_first_reads_by_many_threads_at_once_are_safe() -> None:
    for _ in range(4):
        ran = subprocess.run([sys.executable, "-c", READ, str(STORED)], capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr) == (0, "")
