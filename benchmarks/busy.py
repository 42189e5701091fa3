"""A training step on a busy machine: the autoencoder's, idle and beside processes that only burn time.

    python benchmarks/busy.py [STEPS]

Prints the median milliseconds of STEPS (60) steps (conv+fc, batches of 128, random images) idle, beside one busy
process and beside one a core, and the worst as a multiple of idle: with one thread a core as PyTorch waits by default,
as this project has it wait (study/__init__.py), and with one thread, as --workers auto has it. Needs idle cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from study.engine.workers import cpu_count

ROOT = Path(__file__).parents[1]
CORES = cpu_count()
WAYS = {
    f"{CORES} threads, as PyTorch does": {"GOMP_SPINCOUNT": None, "OMP_NUM_THREADS": str(CORES)},
    f"{CORES} threads, ours": {"GOMP_SPINCOUNT": "ours", "OMP_NUM_THREADS": str(CORES)},
    "1 thread, ours": {"GOMP_SPINCOUNT": "ours", "OMP_NUM_THREADS": "1"},
}
STEP = """
import sys, time
{first}
import torch
from statistics import median
from torch.nn import functional as F
from models.autoencoder import Autoencoder
from study.training.loops import autocast, one_cycle

torch.manual_seed(0)
model = Autoencoder(latent_dim=15, architecture="conv+fc", image_shape=(1, 28, 28)).train()
images = torch.rand(128, 1, 28, 28)
optimizer, step = one_cycle(model, 1e-2, 10_000)
times = []
for _ in range(10 + int(sys.argv[1])):
    began = time.perf_counter()
    with autocast(images.device):
        made = model(images)
    loss = F.mse_loss(made.float(), images)
    optimizer.zero_grad()
    loss.backward()
    step()
    times.append(time.perf_counter() - began)
print(1000 * median(times[10:]))
"""


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes beside, each of which wants a core."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def milliseconds(way: dict[str, str | None], beside: int, steps: int) -> float:
    """A step's median in a process of its own, beside so many busy ones."""
    environment = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", *way)}
    environment |= {name: value for name, value in way.items() if value not in (None, "ours")}  # type: ignore[misc]
    # Without ours, PyTorch is loaded before the study says how to wait.
    code = STEP.format(first="import study" if way["GOMP_SPINCOUNT"] == "ours" else "import torch, study")
    with busy(beside):
        command = [sys.executable, "-c", code, str(steps)]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main(steps: int) -> None:
    """Print the table."""
    besides = sorted({0, 1, CORES})
    print(f"{'ms a step':28} {'idle':>8} " + " ".join(f"{f'beside {each}':>9}" for each in besides[1:]) + "   worst")
    for name, way in WAYS.items():
        times = [milliseconds(way, beside, steps) for beside in besides]
        shown = " ".join(f"{each:9.1f}" for each in times)
        print(f"{name:27} {shown} {max(times) / times[0]:6.1f} x", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
