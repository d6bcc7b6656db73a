"""Several processes that train one network together, each on its own device (DistributedDataParallel, Li et al. 2020).

Every process holds the network and takes a share of every batch. Gradients are averaged over the processes before each
step of the optimizer, so the weights stay the same in all of them, to the last bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from mmap import mmap
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ablations.config import TrainConfig

PATIENCE = timedelta(days=1)
"""The time after which a process gives up waiting for another one. Hanging jobs are ended by `time_limit`."""


Wish = bytes | mmap
"""A byte of memory that all processes of a group share: 1 if a stop was requested."""


class LostPeer(RuntimeError):
    """Another process of the group has ended."""


@dataclass(frozen=True)
class Group:
    """The processes of a training, as one of them sees them. A group of one changes nothing and waits for nobody."""

    rank: int = 0
    """The number of this process. Process 0 reports, saves and decides."""

    size: int = 1
    backend: str = ""
    """What carries tensors between the processes: `nccl`, or `gloo`; empty for a group of one."""

    device: str = "cpu"
    """The device of this process."""

    ears: int = -1
    """Where this process reads what process 0 has decided."""

    mouths: tuple[int, ...] = ()
    """Where process 0 writes what it has decided, for each other process."""

    wish: Wish = b"\0"

    def stopping(self) -> bool:
        """Returns whether a stop was requested. Processes may see it at different times: see `agree`."""
        return bool(self.wish[0])

    def agree(self, value: bool) -> bool:
        """Returns the value of process 0, in every process. Raises LostPeer."""
        for mouth in self.mouths:
            try:
                os.write(mouth, bytes([value]))
            except BrokenPipeError as error:
                raise LostPeer(str(error)) from error
        if not self.rank:
            return value
        heard = os.read(self.ears, 1)
        if not heard:
            raise LostPeer("process 0 has ended")
        return bool(heard[0])

    def share(self, whole: Tensor) -> Tensor:
        """Returns the part of a batch that this process takes. The parts differ by one image at most."""
        return whole if self.size == 1 else whole.tensor_split(self.size)[self.rank]

    def weight(self, whole: int) -> float:
        """Returns the weight of the mean over this share in the mean of the means over all shares.

        So the mean over a batch of `whole` images is exact for shares of different sizes, too.
        """
        return 1.0 if self.size == 1 else self.count(whole) * self.size / whole

    def weigh(self, loss: Tensor, whole: int) -> Tensor:
        """Returns the part of this share's mean loss in the mean over the whole batch: see `sum`."""
        return loss if self.size == 1 else loss * (self.count(whole) / whole)

    def count(self, whole: int) -> int:
        """Returns the number of images in the share of a batch of `whole` images."""
        return whole // self.size + (self.rank < whole % self.size)

    def sum(self, values: Tensor) -> Tensor:
        """Adds up tensors of one shape over the processes. The sum has the same bits in all of them."""
        if self.size > 1:
            values = values.contiguous()
            dist.all_reduce(values)
        return values

    def largest(self, value: int) -> int:
        """Returns the largest value of all processes."""
        if self.size == 1:
            return value
        found = torch.tensor(value, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def any(self, value: bool) -> bool:
        """Returns whether the value is True in any process. All processes wait for each other."""
        return bool(self.largest(int(value)))

    def list_partners(self) -> tuple[int, ...]:
        """Returns the ids of the other processes."""
        if self.size == 1:
            return ()
        ids = torch.zeros(self.size, dtype=torch.long, device=self.device)
        ids[self.rank] = os.getpid()
        return tuple(number for number in self.sum(ids).tolist() if number != os.getpid())

    def in_turn(self, action: Callable[[], None]) -> None:
        """Calls a function in process 0 first, and then in all others at the same time."""
        if self.rank == 0:
            action()
        self.any(False)
        if self.rank:
            action()

    def join(self, network: nn.Module, config: TrainConfig) -> nn.Module:
        """Returns the network for training steps. Its backward pass averages gradients over the processes.

        With `batch_norm = "all"`, batch norms within the network are replaced by synchronised ones.
        """
        if self.size == 1:
            return network
        if config.batch_norm == "all":
            nn.SyncBatchNorm.convert_sync_batchnorm(network)
        with _mute_errors():  # torch warns once in a process that this network has no unused parameters
            small = _average(nn.Linear(1, 1, device=self.device))
            small(torch.ones(1, 1, device=self.device)).sum().backward()
        return _average(network)

    def share_buffers(self, network: nn.Module) -> None:
        """Gives every process the buffers of process 0, such as running statistics of batch norms."""
        for buffer in network.buffers() if self.size > 1 else ():
            dist.broadcast(buffer, 0)

    def describe(self, config: TrainConfig) -> dict[str, Any]:
        """Returns what a record says of the processes; nothing for a group of one."""
        if self.size == 1:
            return {}
        return {"processes": self.size, "nodes": 1, "backend": self.backend, "batch_norm": config.batch_norm}


def _average(network: nn.Module) -> nn.Module:
    """Returns a network whose gradients are averaged over the processes, also where parameters are not used.

    As torch looks for unused parameters in every step, it never changes the order in which it adds up gradients. So a
    training that resumes has the same bits.
    """
    return DistributedDataParallel(network, find_unused_parameters=True, gradient_as_bucket_view=True)


@contextmanager
def _mute_errors() -> Iterator[None]:
    """A context in which nothing is written to the stream of errors, not even by compiled code."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


ALONE = Group()
"""The group of a training in one process."""


def choose_backend(devices: Sequence[str]) -> str:
    """Returns what carries tensors between processes on these devices. NCCL refuses two processes on one GPU."""
    return "nccl" if devices[0] != "cpu" and len(set(devices)) == len(devices) else "gloo"


def open_group(devices: Sequence[str], rank: int, pipes: Sequence[tuple[int, int]], wish: Wish) -> Group:
    """Connects this process with the others. There is one pipe for each process but the first one.

    The store's address is in the environment, where torch's launcher puts it.
    """
    for number, (reading, writing) in enumerate(pipes, 1):
        if rank:
            os.close(writing)  # so that the end of process 0 is the end of the pipe
        if rank != number:
            os.close(reading)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all processes are on this machine
    backend, device = choose_backend(devices), devices[rank]
    if device != "cpu":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, timeout=PATIENCE)
    mouths = () if rank else tuple(writing for _, writing in pipes)
    return Group(rank, len(devices), backend, device, pipes[rank - 1][0] if rank else -1, mouths, wish)


def is_lost(error: Exception) -> bool:
    """Returns whether an error means that another process has ended, so that it is not the first cause."""
    return isinstance(error, LostPeer | dist.DistError) or "gloo/transport" in str(error)
