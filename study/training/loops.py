"""What the training loops share. They report each epoch through a callback and know of no tracker and no search."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from study.data.dataset import to_float

Report = Callable[[int, Mapping[str, float]], None]
"""Called with the epoch, from 1, and its metrics; it may raise to stop the training."""

WARM_UP = 3  # calls before a CUDA graph is captured, as PyTorch's notes have it
EVAL_BATCH = 200  # small enough that activations stay in the processor's cache


def batches(count: int, size: int, device: torch.device) -> Iterator[Tensor]:
    """Indices [size] of the shuffled batches of one epoch; the incomplete last batch is left out.

    With fewer images than `size`, the one batch is all of them.

    Raises:
        ValueError: There is no image, or `size` is below 1.
    """
    size = _batch_size(count, size)
    order = torch.randperm(count, device=device)
    yield from order[: count - count % size].split(size)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """How many batches `batches` gives; at least 1.

    Raises:
        ValueError: There is no image, or `batch_size` is below 1.
    """
    return count // _batch_size(count, batch_size)


def _batch_size(count: int, size: int) -> int:
    if count < 1:
        raise ValueError(f"`1 <= number of images` must hold, but got {count}")
    if size < 1:
        raise ValueError(f"`1 <= batch_size` must hold, but got {size}")
    return min(size, count)


@contextmanager
def eval_mode(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside, the modules' own modes after."""
    before = [module.training for module in modules]
    try:
        for module in modules:
            module.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in zip(modules, before, strict=True):
            module.train(mode)


def apply(module: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """The module's outputs in batches; uint8 images are turned into floats batch by batch."""
    parts = inputs.split(EVAL_BATCH)
    return torch.cat([module(to_float(part) if part.dtype == torch.uint8 else part) for part in parts])


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """What is random inside, on the CPU and on this device, follows from the seed; afterwards it goes on as before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 where the processor multiplies it natively, else float32."""
    native = device.type == "cuda" or torch.cpu.get_capabilities().get("avx512_bf16", False)
    return torch.autocast(device.type, torch.bfloat16, enabled=bool(native))


def captured(gradients: Callable[[Tensor], Tensor], device: torch.device) -> Callable[[Tensor], Tensor]:
    """The part of a training step that gives the loss and its gradients, on a GPU as one CUDA graph.

    At these sizes a GPU computes faster than its kernels are launched one by one; a graph launches them together
    (https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). On another device it stays what it is.

    Args:
        gradients: Indices of a batch, always of the same size, to the loss; it sets the gradients and reads nothing
            back from the device. The optimiser's step comes after it and stays outside: its rate changes.
    """
    return _Captured(gradients) if device.type == "cuda" else gradients


class _Captured:
    """The first calls run as they are, which sets libraries up; then one is captured, and replayed from then on."""

    def __init__(self, gradients: Callable[[Tensor], Tensor]) -> None:
        self.gradients = gradients
        self.graph: torch.cuda.CUDAGraph | None = None
        self.calls = 0
        self.side = torch.cuda.Stream()  # a capture needs a stream of its own, and its warm-up the same one

    def __call__(self, index: Tensor) -> Tensor:
        if self.calls < WARM_UP:
            self.calls += 1
            self.side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.side):
                loss = self.gradients(index)
            torch.cuda.current_stream().wait_stream(self.side)
            return loss
        if self.graph is None:
            self.index, self.graph = index.clone(), torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=self.side, capture_error_mode="thread_local"):
                self.loss = self.gradients(self.index)
        self.index.copy_(index)
        self.graph.replay()
        return self.loss.clone()


class Diverged(FloatingPointError):
    """A training's numbers are not finite any more: its settings, not its code, are what is wrong."""


def check_finite(epoch: int, metrics: Mapping[str, float]) -> None:
    """Stop a training that has broken down.

    Raises:
        Diverged: A metric, which the message names, is NaN or infinite.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise Diverged(f"{name} is {value} after epoch {epoch}")


def one_cycle(
    model: nn.Module, learning_rate: float, steps: int, beta2: float = 0.999
) -> tuple[torch.optim.Optimizer, Callable[[], None]]:
    """AdamW under the one-cycle schedule (Smith & Topin 2017, https://arxiv.org/abs/1708.07120), and its step.

    Args:
        learning_rate: The schedule's largest.
        beta2: Decay of AdamW's average of squared gradients; a small one forgets the large gradients of the beginning.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, beta2), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=max(steps, 2))

    def step() -> None:
        optimizer.step()
        schedule.step()

    return optimizer, step
