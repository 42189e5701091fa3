"""What the training loops share. They report each epoch through a callback and know no tracker and no search."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from study.data.dataset import to_float

Report = Callable[[int, Mapping[str, float]], None]
"""Takes the epoch, from 1, and its metrics; may raise to stop the training."""

WARM_UP = 3  # calls before a CUDA graph is captured, as PyTorch's notes have it
EVAL_BATCH = 200  # small enough that activations stay in the processor's cache


def batches(count: int, size: int, device: torch.device) -> Iterator[Tensor]:
    """Yield the indices [size] of the shuffled batches of one epoch, without the incomplete last batch.

    With fewer images than `size`, the one batch holds all of them.

    Raises:
        ValueError: There is no image, or `size` is below 1.
    """
    steps = steps_per_epoch(count, size)
    order = torch.randperm(count, device=device)
    yield from order[: steps * min(size, count)].split(min(size, count))


def steps_per_epoch(count: int, size: int) -> int:
    """Return the number of batches that `batches` yields; raise as it does."""
    if min(count, size) < 1:
        raise ValueError(f"`1 <= number of images, batch size` must hold, but got {count} and {size}")
    return max(1, count // size)


def fitting_batch(size: int, count: int) -> int:
    """Return the batch size, or a quarter of so few images that an epoch would have fewer than four steps."""
    return min(size, max(2, count // 4))


def mean_of(losses: Sequence[Tensor]) -> float:
    """Return the mean of an epoch's losses: one read from the device."""
    return float(torch.stack(list(losses)).mean())


@contextmanager
def eval_mode(*modules: nn.Module) -> Iterator[None]:
    """Put modules into evaluation mode without gradients; restore their modes afterwards."""
    before = [module.training for module in modules]
    try:
        for module in modules:
            module.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in zip(modules, before, strict=True):
            module.train(mode)


@torch.no_grad()
def apply(module: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Return the module's outputs, computed in batches without gradients; uint8 images become floats batch by batch."""
    parts = inputs.split(EVAL_BATCH)
    return torch.cat([module(to_float(part) if part.dtype == torch.uint8 else part) for part in parts])


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the random numbers of the CPU and this device inside; restore their state afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def autocast(device: torch.device, wanted: bool = True) -> AbstractContextManager[object]:
    """Compute in bfloat16 where the processor multiplies it natively, else (or unless `wanted`) in float32."""
    native = device.type == "cuda" or torch.cpu.get_capabilities().get("avx512_bf16", False)
    return torch.autocast(device.type, torch.bfloat16, enabled=bool(native and wanted))


def gradients_of(
    losses_of: Callable[[Tensor], Sequence[Tensor]],
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    *,
    graph: bool = True,
) -> Callable[[Tensor], Tensor]:
    """Return a function of a batch's indices [B] that sets the gradients of the first loss and returns all losses [K].

    The optimiser's step stays outside, since its learning rate changes.

    Args:
        graph: Capture it on a GPU as one CUDA graph, which launches all kernels together. The indices are then always
            of one size, and `losses_of` reads nothing back from the device.
    """

    def gradients(index: Tensor) -> Tensor:
        optimizer.zero_grad()
        losses = losses_of(index)
        losses[0].backward()
        return torch.stack([loss.detach() for loss in losses])

    return _Captured(gradients) if graph and device.type == "cuda" else gradients


class _Captured:
    """Runs the first calls as they are, which sets libraries up; then captures one call and replays it.

    See https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
    """

    def __init__(self, gradients: Callable[[Tensor], Tensor]) -> None:
        self.gradients, self.calls = gradients, 0
        self.side = torch.cuda.Stream()  # a capture needs a stream of its own, and its warm-up the same one

    def __call__(self, index: Tensor) -> Tensor:
        self.calls += 1
        if self.calls <= WARM_UP:
            self.side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.side):
                losses = self.gradients(index)
            torch.cuda.current_stream().wait_stream(self.side)
            return losses
        if self.calls == WARM_UP + 1:
            self.index, self.graph = index.clone(), torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=self.side, capture_error_mode="thread_local"):
                self.losses = self.gradients(self.index)
        self.index.copy_(index)
        self.graph.replay()
        return self.losses.clone()


class Diverged(FloatingPointError):
    """A loss is not finite any more: the settings, not the code, are wrong."""


def check_finite(epoch: int, metrics: Mapping[str, float]) -> None:
    """Raise `Diverged`, which names the metric, if one is NaN or infinite."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise Diverged(f"{name} is {value} after epoch {epoch}")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a model is trained."""

    epochs: int
    batch_size: int
    learning_rate: float  # peak of the one-cycle schedule
    passes: int = 1  # over the examples in an epoch


def fit(
    model: nn.Module,
    losses_of: Callable[[Tensor], Sequence[Tensor]],
    names: Sequence[str],
    examples: Tensor,
    schedule: Schedule,
    report: Report = lambda *_: None,
    *,
    beta2: float = 0.999,
    graph: bool = False,
    after_step: Callable[[], None] = lambda: None,
    after_epoch: Callable[[int], Mapping[str, float]] = lambda _: {},
) -> None:
    """Train a model by AdamW under the one-cycle schedule (Smith & Topin 2017, https://arxiv.org/abs/1708.07120).

    Args:
        losses_of: From the indices [B] of a batch to the loss, then other numbers to watch.
        names: Of the loss and these numbers; `report` gets the mean of each over the epoch.
        examples: [N, ...]; only their number and device matter.
        beta2: Decay of AdamW's average of squared gradients; a small value forgets the large gradients of the start.
        graph: See `gradients_of`.
        after_epoch: Takes the epoch and returns further metrics; may change the mode of the model's layers.

    Raises:
        Diverged: A metric is not finite.
    """
    count, device = len(examples), examples.device
    steps = schedule.epochs * schedule.passes * steps_per_epoch(count, schedule.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.learning_rate, betas=(0.9, beta2), fused=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.learning_rate, total_steps=max(steps, 2))
    for epoch in range(1, schedule.epochs + 1):
        losses = []
        gradients = gradients_of(losses_of, optimizer, device, graph=graph)  # anew: `after_epoch` may change modes
        for _ in range(schedule.passes):
            for index in batches(count, schedule.batch_size, device):
                losses.append(gradients(index))
                optimizer.step()
                rate.step()
                after_step()
        means = {name: mean_of(parts) for name, parts in zip(names, zip(*losses, strict=True), strict=False)}
        metrics = {**means, **after_epoch(epoch)}
        check_finite(epoch, metrics)
        report(epoch, metrics)
