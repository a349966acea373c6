"""Processes that end with the one that started them, also when that one is killed and can tell them nothing."""

import os
import signal
import threading
import time

WATCH_SECONDS = 0.5
GRACE_SECONDS = 30.0


def end_with(parent: int, *, grace: float = 0.0) -> None:
    """Ends this process once `parent`, which started it, is gone; before, it has `grace` seconds to end by SIGTERM."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        if grace:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(grace)
        os._exit(1)

    threading.Thread(target=watch, name="diffaug-parent", daemon=True).start()
