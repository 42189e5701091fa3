"""How many processes the machine carries: its cores and its memory, less what a container or a queue withholds."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEMORY = 1.5 * 2**30  # bytes that a worker needs: 1.27 GiB at its peak in `exercise` on MNIST
MOST = 16  # a stage has about so many trials, and Optuna learns nothing from those that run at the same time
THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class Capacity:
    """What one process and those beside it may use.

    Attributes:
        cores: Of the processor, that these processes may use.
        memory: Bytes.
    """

    cores: int
    memory: float

    def workers(self, environment: Mapping[str, str] = os.environ) -> int:
        """Processes of one thread each, or of as many as OMP_NUM_THREADS says, that fit."""
        given = environment.get(THREADS, "")
        threads = int(given) if given.isdecimal() and int(given) else 1
        fitting = MOST if self.memory == float("inf") else int(self.memory // MEMORY)
        return max(1, min(self.cores // threads, fitting, MOST))

    def __str__(self) -> str:
        memory = "unknown" if self.memory == float("inf") else f"{self.memory / 2**30:.1f} GiB of"
        return f"{self.cores} {'core' if self.cores == 1 else 'cores'}, {memory} free memory"


def capacity(system: Path = Path("/")) -> Capacity:
    """What this process may use: the cores it is bound to and the memory that is free, within its control groups.

    A container's limits are those of its control groups (https://docs.kernel.org/admin-guide/cgroup-v2.html, and
    cgroup-v1); without Linux's files, all cores and all memory count.

    Args:
        system: The root of the file system.
    """
    cores: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _free(system)
    for folder in _groups(system):
        cores = min(cores, _quota(folder))
        limit = min(_number(folder / "memory.max"), _number(folder / "memory.limit_in_bytes"))
        used = max(_number(folder / "memory.current", 0), _number(folder / "memory.usage_in_bytes", 0))
        cached = _entry(folder / "memory.stat", "inactive_file")  # which the kernel gives back when it is asked for
        if limit < float("inf"):
            memory = min(memory, limit - max(used - cached, 0))
    return Capacity(max(1, int(cores)), memory)


def on_gpu(device: str) -> bool:
    """Whether a study with this `--device` will train on a GPU, as far as that shows before PyTorch is loaded."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return device == "cuda" or (device == "auto" and not hidden and any(Path("/dev").glob("nvidia[0-9]*")))


def share_gpu(device: Any, share: float) -> None:
    """Keep this process's share of a GPU's memory: what needs more is out of memory, and the others go on.

    Args:
        device: A torch.device.
        share: Of one GPU. 0 or 1: all of it.
    """
    if device.type == "cuda" and 0 < share < 1:
        import torch

        torch.cuda.set_per_process_memory_fraction(share, device)


def _free(system: Path) -> float:
    """Bytes of memory that programs can still have."""
    kilobytes = _entry(system / "proc/meminfo", "MemAvailable:")
    if kilobytes:
        return 1024 * kilobytes
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # Windows
        return float("inf")


def _groups(system: Path) -> Iterator[Path]:
    """The folders of the control groups that this process is in, and of those above them."""
    mounts = system / "sys/fs/cgroup"
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        mount = mounts / controllers if controllers else mounts
        inside = Path(path.lstrip("/"))
        yield from (mount / each for each in (inside, *inside.parents))


def _quota(folder: Path) -> float:
    """Cores that a control group may use: its share of the processor's time."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()  # version 2
        return float(quota) / float(period)  # "max" is no number
    except (OSError, ValueError):
        quota_1, period_1 = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        return quota_1 / period_1 if 0 < quota_1 < float("inf") else float("inf")


def _number(file: Path, otherwise: float = float("inf")) -> float:
    """The number in a file; `otherwise` where there is none."""
    try:
        return float(file.read_text())
    except (OSError, ValueError):
        return otherwise


def _entry(file: Path, name: str) -> float:
    """The number after this name in a file of names and numbers; 0 where there is none."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return 0.0
    return next((float(words[1]) for words in lines if len(words) > 1 and words[0] == name), 0.0)
