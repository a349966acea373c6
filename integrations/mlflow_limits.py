"""Limits of MLflow: names, lengths of texts, and how long diffaug waits for a server."""

import logging
import os
import posixpath
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from diffaug.files import storage

MAX_PER_BATCH = {"metrics": 1000, "params": 100, "tags": 100}
MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000
MAX_NAME_LENGTH = 250
MAX_EXPERIMENT_LENGTH = 500
MAX_DESCRIPTION_LENGTH = 5000
MAX_DIGEST_LENGTH = 36

_QUIET = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
_WAITING = (
    "MLFLOW_HTTP_REQUEST_TIMEOUT",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER",
)
SHORT = dict(zip(_WAITING, ("2", "1", "0", "false"), strict=True))
LONG = dict(zip(_WAITING, ("30", "2", "1", "false"), strict=True))
_lock = threading.Lock()
_users = 0
_undo = ExitStack()
_talkers = [logging.getLogger(name) for name in ("mlflow.store.db.utils", "urllib3.connectionpool")]


def clean_name(name: str, *, ascii_only: bool = False) -> str:
    """A name that MLflow accepts: the name itself if possible, else cleaned and followed by a hash of the original.

    Names of images and files must be `ascii_only`.
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


def experiment_name(name: str) -> str:
    """The name of an experiment that MLflow accepts: the name itself if possible."""
    return _without(r"[\ud800-\udfff]", name, MAX_EXPERIMENT_LENGTH)


def model_name(name: str) -> str:
    """The name of a registered model that MLflow accepts and finds by `models:/NAME@ALIAS`, itself if possible."""
    return _without(r"[/:?@\ud800-\udfff\x00-\x1f\x7f]|^\.+$", name, MAX_NAME_LENGTH)


def _without(refused: str, name: str, limit: int) -> str:
    """The name without characters that match `refused`; a changed one is followed by a hash of the original."""
    cleaned = re.sub(refused, "_", name)
    if cleaned == name and name.strip() and len(name) <= limit:
        return name
    digest = storage.sha256_bytes(name.encode("utf-8", "surrogatepass"))[:8]
    return f"{cleaned.strip()[: limit - 10]}-{digest}"


def clean_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags with names and values that MLflow accepts."""
    return {clean_name(name): cut(str(value), MAX_TAG_LENGTH) for name, value in tags.items()}


def cut(value: str, limit: int) -> str:
    """The text, cut with an ellipsis if it is longer than `limit` characters."""
    whole = value.encode("utf-8", "replace").decode()
    return whole if len(whole) <= limit else whole[: limit - 1] + "…"


@contextmanager
def patience(limits: Mapping[str, str]) -> Iterator[None]:
    """Inside the block MLflow waits and retries within `limits`, not for minutes, and prints nothing.

    MLflow reads its limits only from the environment, which the whole process shares. They are set while something is
    sent, until the last of several threads has left the block, and never replace what the user set.
    """
    global _users  # noqa: PLW0603  (as the environment is)
    with _lock:
        _users += 1
        if _users == 1:
            for name, value in {**limits, **_QUIET}.items():
                if name not in os.environ:
                    os.environ[name] = value
                    _undo.callback(os.environ.pop, name, None)
            for talker in _talkers:
                _undo.callback(talker.setLevel, talker.level)
                talker.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _undo.close()
