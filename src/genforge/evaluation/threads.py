"""How many threads the judge's computations are worth.

Threads of PyTorch and of NumPy's BLAS share out every layer and every product, and wait for one another at the end of
each. Where there are thousands of small ones, on a machine that has other work too, the waiting is nearly all: to
evaluate one model of digits took 98 processor seconds on four threads, and 6 on one. So large matrices are shared out,
small ones are not, and what comes in many alike parts takes a part a thread.

Torch is imported where threads are counted: the metrics' table, which names this file, is read by steps without torch.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from threadpoolctl import ThreadpoolController

SHARED_FROM = 512  # rows: a smaller matrix is done with before a second thread is awake

_cores = threading.Lock()  # held by whoever has all threads


@contextlib.contextmanager
def blas_threads(rows: int) -> Iterator[None]:
    """Within it, NumPy and SciPy compute on one thread; where matrices have many rows, on as many as PyTorch has."""
    import torch

    with _libraries().limit(limits=torch.get_num_threads() if rows >= SHARED_FROM else 1, user_api="blas"):
        yield


@contextlib.contextmanager
def side_by_side() -> Iterator[Callable[..., Iterator[Any]]]:
    """`map`, with an item in hand on each of PyTorch's threads, which then compute alone: what is computed of an item
    is the same on any number of threads."""
    import torch

    with _cores:
        threads = torch.get_num_threads()
        if threads == 1:
            yield map
            return
        try:
            with (
                _libraries().limit(limits=1, user_api="blas"),
                ThreadPoolExecutor(threads, "alone", torch.set_num_threads, (1,)) as pool,
            ):
                yield pool.map
        finally:
            torch.set_num_threads(threads)  # what a worker sets holds, in part, for the whole process


def _libraries() -> ThreadpoolController:
    """The BLAS libraries of this process. To look for them takes milliseconds, in which small matrices by the hundred
    are computed: so it is done again only when something was imported since, which may have brought another one."""
    return _libraries_with(len(sys.modules))


@functools.lru_cache(maxsize=1)
def _libraries_with(modules: int) -> ThreadpoolController:
    return ThreadpoolController()
