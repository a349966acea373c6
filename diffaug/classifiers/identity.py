"""Names for functions of the user, so that a changed function is noticed."""

import inspect
from collections.abc import Callable
from functools import partial
from types import CodeType
from typing import Any

from diffaug.files import storage


def identity_of(function: Callable[..., Any]) -> str:
    """The function's name and a hash of its source.

    Arguments bound by `functools.partial` count; functions that it calls and variables that it captures do not. Without
    source, as in an interpreter, its byte code is hashed, which differs between Python versions.
    """
    if isinstance(function, partial):
        bound = repr((function.args, sorted(function.keywords.items())))
        return f"{identity_of(function.func)} {storage.sha256_bytes(bound.encode())[:8]}"
    named = function if hasattr(function, "__qualname__") else type(function)
    try:
        return f"{named.__qualname__} {storage.sha256_bytes(inspect.getsource(named).encode())[:12]}"
    except (TypeError, OSError):
        code = getattr(named, "__code__", getattr(getattr(function, "__call__", None), "__code__", None))  # noqa: B004
        return f"{named.__qualname__} {_hash_of_code(code)}" if code else named.__qualname__


def _hash_of_code(code: CodeType) -> str:
    inner = [_hash_of_code(part) if isinstance(part, CodeType) else _written(part) for part in code.co_consts]
    return storage.sha256_bytes(repr((code.co_code, inner, code.co_names)).encode())[:12]


def _written(constant: object) -> str:
    """The constant as text; a set is ordered differently in each process."""
    return repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)
