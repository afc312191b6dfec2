# SPDX-License-Identifier: Apache-2.0
"""Clients that ask servers at the same time; which answers how fast.

``python docs/figures/serving_load.py FOLDER URL [URL...]`` asks every server in turn, round after round, so that
whatever else the machine does falls on all of them. The pictures of FOLDER are sent one after another by 1, 8 and 32
clients, each on a connection that it keeps.
"""

from __future__ import annotations

import http.client
import statistics
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

CLIENTS, ROUNDS, SECONDS = (1, 8, 32), 3, 4.0


def client(url: str, pictures: list[bytes], end: float, times: list[float], refused: list[int]) -> None:
    line = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    k = 0
    while time.monotonic() < end:
        start = time.monotonic()
        line.request("POST", "/predict", pictures[k % len(pictures)], {"Content-Type": "image/jpeg"})
        reply = line.getresponse()
        reply.read()
        (times if reply.status == 200 else refused).append(time.monotonic() - start)  # type: ignore[arg-type]
        k += 1
    line.close()


def load(url: str, pictures: list[bytes], count: int, seconds: float) -> tuple[list[float], int, float]:
    """Times of all answers, how many were refused, and how long it took altogether."""
    times: list[float] = []
    refused: list[int] = []
    start = time.monotonic()
    words = (url, pictures, start + seconds, times, refused)
    threads = [threading.Thread(target=client, args=words) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, len(refused), time.monotonic() - start


def ready(url: str) -> bool:
    line = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        line.request("GET", "/readyz")
        return line.getresponse().status == 200
    except OSError:
        return False
    finally:
        line.close()


def main() -> None:
    pictures = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())[:32]]
    urls = sys.argv[2:]
    while not all(map(ready, urls)):
        time.sleep(1)
    for url in urls:
        load(url, pictures, 4, 2.0)
    for count in CLIENTS:
        found: dict[str, list[tuple[list[float], int, float]]] = {url: [] for url in urls}
        for _ in range(ROUNDS):
            for url in urls:
                found[url].append(load(url, pictures, count, SECONDS))
        for url, rounds in found.items():
            times = sorted(1000 * each for one, _, _ in rounds for each in one)
            rates = [len(one) / took for one, _, took in rounds]
            refused = sum(each for _, each, _ in rounds)
            middle, tail = times[len(times) // 2], times[int(len(times) * 0.99)]
            rate = f"{statistics.median(rates):6.1f} ({min(rates):.1f}..{max(rates):.1f}) pictures a second"
            print(
                f"{count:3} clients  {url}  {rate}  p50 {middle:.0f} ms  p99 {tail:.0f} ms  refused {refused}",
                flush=True,
            )


main()
