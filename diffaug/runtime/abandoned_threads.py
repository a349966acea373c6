"""Threads that were given up while they were in code of another library, such as a request to a server that hangs."""

import threading

_threads: list[threading.Thread] = []


def abandon(thread: threading.Thread) -> None:
    """Records that nobody waits for this daemon thread any more."""
    _threads.append(thread)


def any_running() -> bool:
    """Whether an abandoned thread is still running; in C++ code it would abort an ordinary end of the process."""
    return any(thread.is_alive() for thread in _threads)
