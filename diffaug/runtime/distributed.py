"""The processes of one training: who this one is, and what they tell each other.

Code that trains takes a `Workers`. One process alone is `ALONE`, which costs nothing and needs no process group;
`joined` makes the `Group` of those that torchrun started.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from diffaug.errors import DiffaugError, Interrupted, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch._C._distributed_c10d import Store

STEP_TIMEOUT = timedelta(minutes=30)  # the others wait this long while the main process saves and logs
ORDER_TIMEOUT = timedelta(days=7)
LAST_WORDS_SECONDS = 3.0
CHUNK_BYTES = 1 << 28


class Workers:
    """The processes that train together; this base class is one process alone.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process owns the study: it alone writes, logs and narrates."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's contiguous part of `count` things; the parts differ in length by one at most."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def synchronized(self, module: nn.Module) -> nn.Module:
        """The module with gradients that become, in backward, the mean of those of all processes."""
        return module

    def apart(self, module: nn.Module) -> AbstractContextManager[Any]:
        """A block in which backward on a `synchronized` module adds to this process's own gradients only."""
        return nullcontext()

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        return values

    def any(self, answer: bool) -> bool:
        """Whether a process answers yes."""
        return answer

    def share_json(self, content: Any = None) -> Any:
        """The main process's JSON-like content."""
        return content

    def share_array(self, array: NDArray[Any] | None = None) -> NDArray[Any]:
        """The main process's array; of its own the others give none."""
        assert array is not None
        return array

    def use_device(self, device: str) -> None:
        """Makes `cuda` mean the device of this process."""


ALONE = Workers()


class Group(Workers):
    """Processes joined by torch.distributed, on one machine or several.

    Tensors in memory travel by gloo, those on a GPU by NCCL.

    Args:
        store: Where last words are left; it must outlive a process that fails.
        rank: Number of this process.
        size: Number of processes.

    Attributes:
        is_idle: Whether the others wait for the main process to say what to do.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        import torch
        import torch.distributed as dist

        self.rank, self.size, self.is_idle, self._store = rank, size, True, store
        on_gpu = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=size, timeout=STEP_TIMEOUT
        )
        # A group of its own, so that one may wait for hours for the next order and yet notice a step that hangs.
        self._orders: Any = dist.new_group(backend="gloo", timeout=ORDER_TIMEOUT)

    def synchronized(self, module: nn.Module) -> nn.Module:
        """See `Workers`; also gives every process the main one's parameters."""
        from torch.nn.parallel import DistributedDataParallel

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # a newer name, which older versions don't know
            # No buffers in forward: a process that passes its part in more pieces would wait for the others.
            return DistributedDataParallel(module, broadcast_buffers=False)

    def apart(self, module: nn.Module) -> AbstractContextManager[Any]:
        """See `Workers`."""
        context: AbstractContextManager[Any] = module.no_sync()  # type: ignore[operator]
        return context

    def total(self, values: Tensor) -> Tensor:
        """See `Workers`."""
        import torch.distributed as dist

        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    def any(self, answer: bool) -> bool:
        """See `Workers`."""
        import torch

        return bool(self.total(torch.tensor(int(answer))))

    def share_json(self, content: Any = None) -> Any:
        """See `Workers`."""
        import numpy as np

        text = np.frombuffer(json.dumps(content).encode(), np.uint8) if self.is_main else np.empty(0, np.uint8)
        length = np.array([len(text)])
        self._broadcast(length)
        return json.loads(self._filled(text, (int(length[0]),)).tobytes())

    def share_array(self, array: NDArray[Any] | None = None) -> NDArray[Any]:
        """See `Workers`."""
        import numpy as np

        form = self.share_json(None if array is None else [array.dtype.str, array.shape])
        return self._filled(array if array is not None else np.empty(0, form[0]), tuple(form[1]))

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """A block in which all processes do one task; they end it together, or, after an error, not at all."""
        self.is_idle = False
        try:
            yield
        except Interrupted:  # a stop that all agreed on
            self.is_idle = True
            raise
        self.is_idle = True

    def use_device(self, device: str) -> None:
        """See `Workers`.

        Raises:
            UsageError: There is no device for each process.
        """
        import torch

        if device != "cuda":
            return
        here, devices = int(os.environ.get("LOCAL_WORLD_SIZE", self.size)), torch.cuda.device_count()
        if devices == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
            return  # a launcher other than torchrun, such as SLURM's, can show each process a device of its own
        if here > devices:
            raise UsageError(
                f"{here} processes on this machine and {devices} CUDA devices",
                fix=f"torchrun --nproc-per-node {devices}" if devices else "--device cpu",
            )
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", self.rank)))

    def explain(self, error: BaseException) -> BaseException:
        """Leaves this process's last words for the others; returns the error with the process that caused it."""
        lost = _is_lost_connection(error)
        with suppress(RuntimeError):
            self._store.set(f"ended/{self.rank}", "" if lost else _last_words(error))
        if lost:
            return DiffaugError(
                f"process {self.rank} of {self.size} lost the others: {self._what_the_others_said()}",
                fix="the same command goes on from the last checkpoint",
            )
        if isinstance(error, DiffaugError) and not self.is_main:
            error.what = f"process {self.rank} of {self.size}: {error.what}"
        return error

    def _what_the_others_said(self) -> str:
        others = {rank for rank in range(self.size) if rank != self.rank}
        words: dict[int, str] = {}
        deadline = time.monotonic() + LAST_WORDS_SECONDS
        with suppress(RuntimeError):
            while len(words) < len(others) and time.monotonic() < deadline:
                said = [rank for rank in others - words.keys() if self._store.check([f"ended/{rank}"])]
                words |= {rank: self._store.get(f"ended/{rank}").decode() for rank in said}
                time.sleep(0.02)
        silent = sorted(others - words.keys())
        reasons = [f"process {rank} failed: {text}" for rank, text in sorted(words.items()) if text]
        if silent and not reasons:
            reasons = [f"no word from process {', '.join(map(str, silent))}, killed or cut off"]
        return "; ".join(reasons) or "the connection broke"

    def _filled(self, array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        import numpy as np

        own = np.array(array, order="C") if self.is_main else np.empty(shape, array.dtype)
        self._broadcast(own)
        return own

    def _broadcast(self, array: NDArray[Any]) -> None:
        import numpy as np
        import torch
        import torch.distributed as dist

        content = torch.from_numpy(array.reshape(-1).view(np.uint8))
        for start in range(0, len(content), CHUNK_BYTES):
            dist.broadcast(content[start : start + CHUNK_BYTES], src=0, group=self._orders)


_current: Workers = ALONE


def current() -> Workers:
    """The processes that this one trains with: those of the enclosing `joined`, else it is alone."""
    return _current


def launched_together() -> bool:
    """Whether torchrun, or another launcher that sets its environment variables, started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and {"RANK", "MASTER_ADDR"} <= os.environ.keys()


@contextmanager
def joined() -> Iterator[Group]:
    """Joins the processes of the same launch; an error in the block says which process it began in."""
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    global _current  # noqa: PLW0603  (torch's own process group is global to the process as well)
    store, rank, size = next(rendezvous("env://", timeout=STEP_TIMEOUT))
    _current = group = Group(store, rank, size)
    try:
        yield group
    except BaseException as error:
        explained = group.explain(error)
        if explained is error:
            raise
        raise explained from error
    else:
        dist.destroy_process_group()
    finally:
        _current = ALONE


def _last_words(error: BaseException) -> str:
    text = error.what if isinstance(error, DiffaugError) else str(error)
    return f"{type(error).__name__}: {(text.splitlines() or [''])[0]}"


def _is_lost_connection(error: BaseException) -> bool:
    """Errors of torch.distributed have no type of their own in every backend and version."""
    import torch.distributed as dist

    if isinstance(error, DiffaugError) or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo", "Gloo", "NCCL"))
