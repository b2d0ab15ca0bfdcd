"""Latency and throughput of a service: clients that ask one request after another."""

import http.client
import json
import threading
import time
import urllib.parse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from k3m_jax.settings import UserError


class Load(NamedTuple):
    """What the clients saw."""

    seconds: np.ndarray  # of each request that was answered
    failed: int  # requests with another status than 200
    whole: float  # seconds from the first request to the last answer
    products: int  # of a request

    def __str__(self) -> str:
        if not len(self.seconds):
            return f"no request was answered, {self.failed:,} failed"
        p50, p95, p99 = 1e3 * np.percentile(self.seconds, (50, 95, 99))
        rate = len(self.seconds) * self.products / self.whole
        return (
            f"{len(self.seconds):,} requests of {self.products} products, {self.failed:,} failed; "
            f"latency p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms; {rate:.1f} products/s"
        )


def measure(url: str, bodies: Sequence[dict], *, clients: int, requests: int) -> Load:
    """Sends `requests` requests in all, the `bodies` in turn, by so many clients at a time.

    Raises UserError where nothing answers at `url`.
    """
    parsed, data = urllib.parse.urlsplit(url), [json.dumps(body).encode() for body in bodies]
    if parsed.scheme != "http" or not parsed.hostname:
        raise UserError(f"--url: {url} is no http:// address")
    seconds, failed, errors, lock = [], [], [], threading.Lock()
    numbers = iter(range(requests))

    def client() -> None:
        connection = http.client.HTTPConnection(parsed.hostname, parsed.port or 80, timeout=600)
        try:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                start = time.perf_counter()
                connection.request("POST", parsed.path, data[number % len(data)])
                answer = connection.getresponse()
                answer.read()
                took = time.perf_counter() - start
                (seconds if answer.status == 200 else failed).append(took)
        except OSError as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise UserError(f"--url: {url} does not answer: {errors[0]}")
    whole = time.perf_counter() - start
    return Load(np.array(seconds), len(failed), whole, len(bodies[0]["products"]))
