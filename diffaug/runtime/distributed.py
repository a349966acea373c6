"""Several processes that work as one, started by torchrun (`torchrun --nproc-per-node 4 -m diffaug fit DATA`).

Every process runs the same command on the same study folder. The main process, rank 0, alone writes, logs and reports;
the others wait in `main_first` and then read what it wrote. Trainings share each batch and pools share the chunks.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from diffaug.errors import DataError, DiffaugError, Interrupted, UsageError
from diffaug.runtime.orphans import GRACE_SECONDS, end_with

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch._C._distributed_c10d import Store

STEP_TIMEOUT = timedelta(minutes=30)
MAIN_TIMEOUT = timedelta(days=7)
BY_TORCHRUN = "TORCHELASTIC_RUN_ID"


class ProcessGroup:
    """The processes that work together; this base class is a single process."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process alone writes, logs and reports."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's contiguous part of `count` things. The parts differ in length by at most one."""
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
        """Whether the answer is true in any process."""
        return answer

    def broadcast(self, content: Any = None) -> Any:
        """The main process's JSON-like content; that of the others is ignored."""
        return content

    def main_first(self) -> AbstractContextManager[None]:
        """A block that the main process runs before the others do. They end with it if it fails."""
        return nullcontext()

    def use_device(self, device: str) -> None:
        """Makes `cuda` mean the device of this process."""


ALONE = ProcessGroup()


class TorchGroup(ProcessGroup):
    """Processes joined by torch.distributed. Tensors in memory travel by gloo, those on a GPU by NCCL."""

    def __init__(self, store: Store, rank: int, size: int) -> None:
        import torch
        import torch.distributed as dist

        self.rank, self.size, self._is_nested = rank, size, False
        on_gpu = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=size, timeout=STEP_TIMEOUT
        )
        # A second group, because a wait for the main process may take days, and a step that hangs must not.
        self._waiting: Any = dist.new_group(backend="gloo", timeout=MAIN_TIMEOUT)

    def synchronized(self, module: nn.Module) -> nn.Module:
        """Also gives every process the main one's parameters."""
        from torch.nn.parallel import DistributedDataParallel

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # a newer name, which older versions don't know
            # No buffers in forward: a process that passes its part in more pieces would wait for the others.
            return DistributedDataParallel(module, broadcast_buffers=False)

    def apart(self, module: nn.Module) -> AbstractContextManager[Any]:
        """DistributedDataParallel's own block."""
        return module.no_sync()  # type: ignore[operator,no-any-return]

    def total(self, values: Tensor) -> Tensor:
        """A new tensor; `values` stays as it is."""
        import torch.distributed as dist

        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    def any(self, answer: bool) -> bool:
        """The same answer in every process."""
        import torch

        return bool(self.total(torch.tensor(int(answer))))

    def broadcast(self, content: Any = None) -> Any:
        """Sends the length of the JSON text, then the text."""
        import torch
        import torch.distributed as dist

        encoded = bytearray(json.dumps(content).encode()) if self.is_main else bytearray()
        length = torch.tensor(len(encoded))
        dist.broadcast(length, src=0, group=self._waiting)
        encoded = encoded if self.is_main else bytearray(int(length))
        dist.broadcast(torch.frombuffer(encoded, dtype=torch.uint8), src=0, group=self._waiting)
        return json.loads(encoded)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """A block inside of another one adds nothing."""
        if self._is_nested:
            yield
            return
        if not self.is_main and (exit_code := self.broadcast()):
            raise SystemExit(exit_code)
        self._is_nested = True
        try:
            yield
        except BaseException as error:
            if self.is_main:
                with suppress(RuntimeError):  # the others may be gone
                    self.broadcast(_exit_code(error))
            raise
        else:
            if self.is_main:
                self.broadcast(0)
        finally:
            self._is_nested = False

    def use_device(self, device: str) -> None:
        """Refuses more processes than devices."""
        import torch

        if device != "cuda":
            return
        here, devices = int(os.environ.get("LOCAL_WORLD_SIZE", self.size)), torch.cuda.device_count()
        if devices == 1 and BY_TORCHRUN not in os.environ:
            return  # a launcher other than torchrun, such as SLURM's, can show each process a device of its own
        if here > devices:
            raise UsageError(
                f"{here} processes on this machine but only {devices} CUDA devices",
                fix=f"torchrun --nproc-per-node {devices}" if devices else "--device cpu",
            )
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", self.rank)))

    def named(self, error: BaseException) -> BaseException:
        """The error with the rank of this process; a lost connection becomes a clear one."""
        import torch.distributed as dist

        name = f"process {self.rank} of {self.size}"
        # Errors of torch.distributed have no type of their own in every backend and version.
        is_named = any(backend in str(error) for backend in ("gloo", "Gloo", "NCCL"))
        if isinstance(error, RuntimeError) and (isinstance(error, dist.DistError) or is_named):
            return DiffaugError(
                f"{name} lost the connection to another one, which failed or was killed",
                fix="torchrun's report names it; the same command resumes from the last checkpoint",
            )
        if isinstance(error, DiffaugError) and not self.is_main:
            error.what = f"{name}: {error.what}"
        return error


_current: ProcessGroup = ALONE


def current() -> ProcessGroup:
    """The group of the enclosing `joined`, else `ALONE`."""
    return _current


def launched_together() -> bool:
    """Whether torchrun, or another launcher that sets its environment variables, started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and {"RANK", "MASTER_ADDR"} <= os.environ.keys()


@contextmanager
def joined() -> Iterator[TorchGroup]:
    """Joins the processes of one launch. Errors in the block name this process."""
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    global _current  # noqa: PLW0603  (torch's own process group is global to the process as well)
    if BY_TORCHRUN in os.environ:  # if it is killed, nobody else ends the processes that it started
        end_with(os.getppid(), grace=GRACE_SECONDS)
    store, rank, size = next(rendezvous("env://", timeout=STEP_TIMEOUT))
    _current = group = TorchGroup(store, rank, size)
    try:
        yield group
    except BaseException as error:
        if not torch.cuda.is_available():  # NCCL would wait for the others; gloo's threads, left alone, may abort
            dist.destroy_process_group()
        named = group.named(error)
        if named is error:
            raise
        raise named from error
    else:
        dist.destroy_process_group()
    finally:
        _current = ALONE


def _exit_code(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return int(error.code or 0)
    if isinstance(error, KeyboardInterrupt):
        return Interrupted.exit_code
    if isinstance(error, OSError | MemoryError):
        return DataError.exit_code
    return error.exit_code if isinstance(error, DiffaugError) else 1
