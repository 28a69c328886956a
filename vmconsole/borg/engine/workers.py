"""The few threads that hash, compress and encrypt, with a bounded queue in front of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

MAX_THREADS = 4
IN_FLIGHT = 24 * 1024 * 1024
"""Bytes of chunks that may wait for a thread."""


class Workers:
    """Runs jobs that never raise. submit() blocks while too much is waiting: that is the backpressure."""

    def __init__(self, chunk_size: int) -> None:
        threads = min(MAX_THREADS, max(2, os.cpu_count() or 1))
        self._slots = threading.BoundedSemaphore(max(threads + 1, min(256, IN_FLIGHT // chunk_size)))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="borg-chunks")

    def submit(self, job: Callable[[], None]) -> None:
        self._slots.acquire()
        try:
            self._pool.submit(self._run, job)
        except BaseException:
            self._slots.release()
            raise

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        finally:
            self._slots.release()

    def close(self) -> None:
        self._pool.shutdown(wait=True)
