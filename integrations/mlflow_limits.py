"""What MLflow takes: names, lengths of texts, and how long it is waited for."""

from __future__ import annotations

import logging
import os
import posixpath
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from diffaug.files import storage

MAX_PER_BATCH = {"metrics": 1000, "params": 100, "tags": 100}
MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000
MAX_NAME_LENGTH = 250
MAX_DIGEST_LENGTH = 36

_QUIET = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
SHORT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "2",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}
LONG = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}
_lock = threading.Lock()
_users = 0
_added: list[str] = []
_talkers = [logging.getLogger(name) for name in ("mlflow.store.db.utils", "urllib3.connectionpool")]
_levels: list[int] = []


def clean_name(name: str, *, ascii_only: bool = False) -> str:
    """A name that MLflow takes: the name itself where it can be, else cleaned and followed by a hash of the original.

    Args:
        name: Any text, such as a metric's name that ends in a class name.
        ascii_only: Images and files allow no other letters.
    """
    flags = re.ASCII if ascii_only else re.UNICODE
    limit = 120 if ascii_only else MAX_NAME_LENGTH
    is_path = posixpath.normpath(name) == name and not name.startswith(("/", ".")) and len(name) <= limit
    if is_path and re.fullmatch(r"[\w.\- /]+", name, flags):
        return name
    cleaned = re.sub(r"[^\w.\- /]", "_", name, flags=flags)
    parts = [part for part in cleaned.split("/") if part.strip(". ")]
    digest = storage.sha256_bytes(name.encode("utf-8", "surrogatepass"))[:8]
    return f"{'/'.join(parts).lstrip('./ ')[: limit - 10]}-{digest}"


def clean_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags whose names and values MLflow takes."""
    return {clean_name(name): cut(str(value), MAX_TAG_LENGTH) for name, value in tags.items()}


def cut(value: str, limit: int) -> str:
    """The text, ended by an ellipsis where it is longer than `limit` characters."""
    whole = value.encode("utf-8", "replace").decode()
    return whole if len(whole) <= limit else whole[: limit - 1] + "…"


@contextmanager
def patience(limits: Mapping[str, str]) -> Iterator[None]:
    """Inside the block MLflow waits and retries as `limits` say, not for minutes, and prints nothing.

    MLflow reads these limits from the environment, which the whole process shares: they are there only while
    something is sent, until the last of several threads has left, and never replace what the user set.
    """
    global _users  # noqa: PLW0603  (as the environment is)
    with _lock:
        _users += 1
        if _users == 1:
            _added[:] = [name for name in {**limits, **_QUIET} if name not in os.environ]
            os.environ.update({name: {**limits, **_QUIET}[name] for name in _added})
            _levels[:] = [talker.level for talker in _talkers]
            for talker in _talkers:
                talker.setLevel(logging.ERROR)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                for name in _added:
                    os.environ.pop(name, None)
                for talker, level in zip(_talkers, _levels, strict=True):
                    talker.setLevel(level)
