"""Several processes that train one network, as ``torchrun`` starts them; alone, a process is number 0 of 1."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Args:
        rank: Number of this process.
        total: Number of processes.
        device: Where this process computes.
    """

    rank: int
    total: int
    device: torch.device

    def share(self) -> slice:
        """Return this process's events of a batch."""
        return slice(self.rank, None, self.total)

    def add_up(self, value: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self.total > 1:
            distributed.all_reduce(value)
        return value

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.total > 1:
            distributed.barrier()


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` has started, over nccl on GPUs and gloo elsewhere.

    Args:
        device: Torch device; ``cuda`` becomes the GPU of this process's number on its machine.
    """
    if "WORLD_SIZE" not in os.environ:
        yield Processes(0, 1, torch.device(device))
        return
    on_gpu = device.startswith("cuda")
    here = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device(device)
    if on_gpu:
        torch.cuda.set_device(here)
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size(), here)
    finally:
        distributed.destroy_process_group()
