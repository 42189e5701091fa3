"""What a generator's measures cost: seconds of one thread for 10,000 images of MNIST and three judges.

    STUDY_DATA_DIR=... OMP_NUM_THREADS=1 python benchmarks/measures.py [REPEATS]

Prints the median of REPEATS (5) of each: all measures against the test images (of one draw; a generator has five), what
chooses an epoch (both selecting judges), and what a search goes by (2,500 images, the first judge). What belongs to the
real images is computed before: it is cached in a store. The judges are not trained; that costs the same.
"""

from __future__ import annotations

import study  # noqa: F401 - first: it says how OpenMP's threads wait

# isort: split
import sys
import time
from collections.abc import Callable
from statistics import median

import torch

from models.classifier import Judge
from study import data
from study.data.dataset import to_float
from study.measures.judges import Judges
from study.measures.latents import LatentFidelity

KINDS = ("conv", "mlp", "residual")


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Processor time of this process; the median."""
    found = []
    for _ in range(repeats):
        began = time.process_time()
        call()
        found.append(time.process_time() - began)
    return median(found)


def main(repeats: int = 5) -> None:
    """Print the table."""
    mnist = data.load("mnist")
    torch.manual_seed(0)
    judges = Judges([Judge(kind, image_shape=(1, 28, 28), classes=10).eval() for kind in KINDS], mnist)
    images = to_float(mnist.train.images[:10_000])
    latents = torch.randn(len(mnist.train), 15)
    fidelity = LatentFidelity(latents, torch.randn(10_000, 15))
    calls: dict[str, Callable[[], object]] = {
        "all measures, 10,000 images": lambda: judges.measures(images),
        "the latents' measures": lambda: fidelity.measures(torch.randn(10_000, 15)),
        "to choose an epoch, 5,000 images": lambda: judges.val_measures(images[:5_000]),
        "in a search, 2,500 images": lambda: judges.search_measures(images[:2_500]),
    }
    for name, call in calls.items():
        call()  # what belongs to the real images
        print(f"{name:34}  {seconds(call, repeats):6.2f} s", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
