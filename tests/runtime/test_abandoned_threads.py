import threading

from diffaug.runtime import abandoned_threads as abandoned


def test_only_an_abandoned_thread_counts_and_only_while_it_runs() -> None:
    released = threading.Event()
    thread = threading.Thread(target=released.wait, args=(30,), daemon=True)
    thread.start()
    assert not abandoned.any_running()
    abandoned.abandon(thread)
    assert abandoned.any_running()
    released.set()
    thread.join()
    assert not abandoned.any_running()
