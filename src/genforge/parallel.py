"""Processes that train one model together, as `torchrun` starts them: each on its share of the batch.

Every process holds the whole model and takes the same steps. What they have to agree on is little: the mean of their
gradients, of their losses and of their buffers, and whether to stop. The first one alone writes and is heard; for a
checkpoint the others tell it what they alone know.

`torchrun` says who is who: RANK, WORLD_SIZE and LOCAL_RANK in the environment, and where to meet.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genforge.settings import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

RANK, WORLD_SIZE = "RANK", "WORLD_SIZE"
MEETING = "GENFORGE_MEETING"  # the port of a `Meeting`, in the environment of whom its process has started


class Peers:
    """The processes that train together: `size` of them, of which this one is number `rank`, from 0.

    One process alone is a special case that costs nothing: every mean is what it was.
    """

    def __init__(self, rank: int = 0, size: int = 1, words: Any = None) -> None:
        self.rank, self.size, self._words = rank, size, words

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Put the mean over all processes into floating-point tensors, in place; all give the same ones in the same
        order. One message for each type of number."""
        if self.size == 1:
            return
        import torch

        alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for tensor in tensors:
            alike.setdefault((tensor.device, tensor.dtype), []).append(tensor)
        with torch.no_grad():
            for group in alike.values():
                flat = torch.cat([tensor.reshape(-1) for tensor in group])
                torch.distributed.all_reduce(flat)
                parts = (flat / self.size).split([tensor.numel() for tensor in group])
                for tensor, part in zip(group, parts, strict=True):
                    tensor.copy_(part.view(tensor.shape))

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All processes' tensors in the first one, on the CPU; in the others nothing. All call this at the same moment,
        and no two with the same name."""
        if self.size == 1:
            return dict(tensors)
        import torch
        from safetensors.torch import load, save

        here = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        content = torch.frombuffer(bytearray(save(here)), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        torch.distributed.all_gather(lengths, torch.tensor([len(content)]), self._words)
        longest = int(torch.cat(lengths).max())  # messages of one length are all that can be gathered
        padded = torch.cat([content, content.new_zeros(longest - len(content))])
        found = [torch.empty_like(padded) for _ in range(self.size)] if self.is_first else None
        torch.distributed.gather(padded, found, group=self._words)
        told = zip(found or [], lengths, strict=False)
        return {
            name: tensor
            for message, length in told
            for name, tensor in load(message[: int(length)].numpy().tobytes()).items()
        }

    def any(self, answer: bool) -> bool:
        """True where it is true for some process. All ask at the same moment, so that all hear the same."""
        if self.size == 1:
            return answer
        import torch

        votes = torch.tensor([int(answer)])
        torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MAX, self._words)
        return bool(votes.item())

    def wait(self) -> None:
        """Until all have come here."""
        self.any(False)


ALONE = Peers()


def is_one_of_several() -> bool:
    """Whether `torchrun` has started this process beside others."""
    return _number(WORLD_SIZE, 1) > 1


def is_first() -> bool:
    """False in a process that trains beside the first one, which alone tells and writes what comes of it."""
    return _number(RANK, 0) == 0


class Meeting:
    """Where the processes that this one starts meet it, on this machine: a port that the system has chosen."""

    def __init__(self, size: int) -> None:
        from torch.distributed import TCPStore

        self.size = size
        self.store = TCPStore("127.0.0.1", 0, world_size=size, is_master=True, wait_for_workers=False)

    def environment(self, rank: int) -> dict[str, str]:
        """For process number `rank`."""
        own = {RANK: str(rank), WORLD_SIZE: str(self.size), MEETING: str(self.store.port)}
        return {**own, "GLOO_SOCKET_IFNAME": "lo"}

    def has_come(self, rank: int) -> bool:
        return self.store.check([_here(rank)])


@contextlib.contextmanager
def meeting(device: str, own: Meeting | None = None) -> Iterator[Peers]:
    """The other processes of this training, met before the block and left after it; `ALONE` where there are none.

    Args:
        device: `cpu` (they talk by gloo) or `cuda...` (by NCCL).
        own: of the process that started the others, once all have come.

    Raises:
        UserError: the environment does not say where to meet.
    """
    if own is None and not is_one_of_several():
        yield ALONE
        return
    from torch import distributed

    on_gpu = device.startswith("cuda")
    backend = "nccl" if on_gpu else "gloo"
    if own is not None:
        distributed.init_process_group(backend, store=own.store, rank=0, world_size=own.size)
    elif MEETING in os.environ:
        rank, size = _number(RANK, 0), _number(WORLD_SIZE, 1)
        store = distributed.TCPStore("127.0.0.1", _number(MEETING, 0), is_master=False)
        store.set(_here(rank), "")
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
    elif missing := [name for name in (RANK, "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise UserError(
            f"{WORLD_SIZE} is {os.environ[WORLD_SIZE]}, but {', '.join(missing)} is not set: start several processes "
            f"by `torchrun`, or set `processes` in params.yaml"
        )
    else:
        distributed.init_process_group(backend)
    try:
        # Words go between CPUs also where tensors go between GPUs: to hear one must not wait for all that a GPU does.
        words = distributed.new_group(backend="gloo") if on_gpu else None
        yield Peers(distributed.get_rank(), distributed.get_world_size(), words)
    finally:
        distributed.destroy_process_group()


def _here(rank: int) -> str:
    return f"process {rank} is here"


def _number(name: str, otherwise: int) -> int:
    text = os.environ.get(name, str(otherwise))
    if not text.isdecimal():
        raise UserError(f"{name}={text!r} in the environment: should be a whole number, as `torchrun` sets it")
    return int(text)
