"""Computing on one thread, where sums must round the same way however many there are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread_each() -> Iterator[int]:
    """Lets torch use one thread of the CPU inside the block, in every Python thread that is begun there too.

    Yields:
        How many it used before.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)
