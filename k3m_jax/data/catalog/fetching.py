"""Fetching the pictures that a dump names by address: politely, resumably, and nothing else.

An answer is untrusted: its size is bounded, it must decode as a picture, and neither an address nor
a redirection leads into a private network unless that is allowed.
"""

import asyncio
import collections
import contextlib
import hashlib
import ipaddress
import json
import os
import pathlib
import random
import socket
import time
from collections.abc import Iterable

import aiohttp
from aiohttp.abc import AbstractResolver
from tqdm import tqdm
from yarl import URL

from k3m_jax.data.catalog.fetched import FETCHED, Index, Limits
from k3m_jax.data.records import InvalidRecordError
from k3m_jax.modalities import pixels
from k3m_jax.settings import UserError

TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
AGAIN = ("timeout", "connection", "cut_short", *(f"http_{status}" for status in sorted(TRANSIENT)))
REDIRECTIONS = 5
LONGEST_PAUSE = 60.0  # seconds that a host may ask for
FAILURES = "failures.jsonl"


class Failure(Exception):
    """Why an address gives no picture; `pause`: seconds that its host asked to be left alone."""

    def __init__(self, cause: str, detail: str = "", pause: float = 0.0):
        super().__init__(cause, detail)
        self.cause, self.detail, self.pause = cause, detail, pause


class Resolver(AbstractResolver):
    """Names to public addresses; what is resolved is what is connected to."""

    def __init__(self, private: bool):
        self._inner, self._private = aiohttp.ThreadedResolver(), private

    async def resolve(self, host, port=0, family=socket.AF_INET):
        """As aiohttp's; raises Failure where a host has private addresses alone."""
        found = await self._inner.resolve(host, port, family)
        allowed = [each for each in found if self._private or is_public(each["host"])]
        if not allowed:
            raise Failure("private_address", f"{host} is {found[0]['host']}")
        return allowed

    async def close(self) -> None:
        """Nothing is held."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_global and not ip.is_multicast


def fetch(addresses: Iterable[str], folder: pathlib.Path, limits: Limits) -> str:
    """Fetches what is not in the folder yet; returns counts by cause, in words.

    Addresses that failed for a cause that may pass, `AGAIN`, are tried again by each call. Failures
    are listed in the folder's `FAILURES`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        index = Index(folder)
    except OSError as error:
        raise UserError(f"--output: {folder} can't be written: {error}") from error
    with contextlib.closing(index):
        index.add(tqdm(addresses, "reading", unit=" pictures"))
        asyncio.run(_Fetcher(folder, index, limits).run(list(index.waiting(AGAIN))))
        counts = index.counts()
        with (folder / FAILURES).open("w", encoding="utf-8") as file:
            for address, cause, detail in index.failures():
                line = {"address": address, "cause": cause, "detail": detail}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return f"{json.dumps(counts)}: {folder}; failures: {folder / FAILURES}"


class _Fetcher:
    def __init__(self, folder: pathlib.Path, index: Index, limits: Limits):
        self._folder, self._index, self._limits = folder, index, limits
        self._free = collections.defaultdict(lambda: asyncio.Semaphore(limits.per_host))
        self._resume = collections.defaultdict(float)  # when a host may be asked again

    async def run(self, addresses: list[str]) -> None:
        """Fetches all of them, and commits what was done about once a second."""
        waiting, committed = iter(tqdm(addresses, "fetching", unit=" pictures")), time.monotonic()

        async def work() -> None:
            nonlocal committed
            for address in waiting:  # shared: each worker takes the next
                self._index.put(address, *await self._outcome(session, address))
                if time.monotonic() > committed + 1:
                    self._index.commit()
                    committed = time.monotonic()

        timeout = aiohttp.ClientTimeout(
            sock_connect=self._limits.timeout, sock_read=self._limits.timeout
        )
        connector = aiohttp.TCPConnector(limit=0, resolver=Resolver(self._limits.private_addresses))
        headers = {"User-Agent": "k3m_jax", "Accept": "image/*", "Accept-Encoding": "identity"}
        async with (
            aiohttp.ClientSession(
                connector=connector,
                timeout=timeout,
                headers=headers,
                cookie_jar=aiohttp.DummyCookieJar(),
            ) as session,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(self._limits.at_once):
                group.create_task(work())

    async def _outcome(self, session: aiohttp.ClientSession, address: str) -> tuple[str, str, str]:
        """(cause, file, detail) of an address."""
        for attempt in range(self._limits.retries + 1):
            try:
                whole = f"https:{address}" if address.startswith("//") else address
                data = await self._follow(session, whole)
                return FETCHED, await asyncio.to_thread(self._store, data), ""
            except Failure as failure:
                if failure.cause not in AGAIN or attempt == self._limits.retries:
                    return failure.cause, "", failure.detail[:500]
                await asyncio.sleep(max(failure.pause, 2**attempt * (0.5 + random.random() / 2)))
        raise AssertionError("unreachable")

    async def _follow(self, session: aiohttp.ClientSession, address: str) -> bytes:
        """The bytes at an address, through redirections."""
        url = self._checked(address)
        for _ in range(REDIRECTIONS + 1):
            async with self._free[url.host]:
                await asyncio.sleep(max(0.0, self._resume[url.host] - time.monotonic()))
                answer = await self._request(session, url)
            if isinstance(answer, bytes):
                return answer
            url = self._checked(str(url.join(answer)))
        raise Failure("too_many_redirections", str(url))

    async def _request(self, session: aiohttp.ClientSession, url: URL) -> bytes | URL:
        """A body, or where the answer points to."""
        try:
            async with (
                asyncio.timeout(10 * self._limits.timeout),
                session.get(url, allow_redirects=False) as response,
            ):
                if response.status in (301, 302, 303, 307, 308):
                    return URL(response.headers.get("Location", ""))
                if response.status != 200:
                    pause = _seconds(response.headers.get("Retry-After", ""))
                    if response.status in (429, 503):
                        self._resume[url.host] = time.monotonic() + pause
                    raise Failure(f"http_{response.status}", str(url), pause)
                data = bytearray()
                async for chunk in response.content.iter_chunked(1 << 16):
                    data += chunk
                    if len(data) > self._limits.max_bytes:
                        raise Failure("too_large", f"more than {self._limits.max_bytes} bytes")
                return bytes(data)
        except aiohttp.ClientPayloadError as error:
            raise Failure("cut_short", str(error)) from error
        except TimeoutError as error:
            raise Failure("timeout", str(url)) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Failure("connection", f"{type(error).__name__}: {error}") from error

    def _checked(self, address: str) -> URL:
        try:
            url = URL(address)
        except ValueError as error:
            raise Failure("bad_address", str(error)) from error
        if url.scheme not in ("http", "https") or not url.host:
            raise Failure("bad_address", address)
        with contextlib.suppress(ValueError):  # a name: `Resolver` looks at what it stands for
            if not self._limits.private_addresses and not is_public(url.host):
                raise Failure("private_address", address)
        return url

    def _store(self, data: bytes) -> str:
        """Writes a picture under its hash, whole or not at all; Failure where it is no picture."""
        try:
            pixels.shrink(data, 32, square=False)
        except InvalidRecordError as error:
            kind = "not_a_picture" if error.reason == "bad_picture" else error.reason
            raise Failure(kind, f"{error.detail}; it begins with {data[:40]!r}") from error
        name = hashlib.sha256(data).hexdigest()
        path = self._folder / name[:2] / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}")
            partial.write_bytes(data)
            partial.replace(path)
        return f"{name[:2]}/{name}"


def _seconds(text: str) -> float:
    """What Retry-After asks for, in bounds; dates are not understood."""
    return min(float(text), LONGEST_PAUSE) if text.strip().isdecimal() else 0.0
