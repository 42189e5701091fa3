"""The study: configuration, data, training, measures, search, and the stages that use them."""

import os

# OpenMP's threads spin while they wait for each other. Beside one busy process, a training step then takes 40 times as
# long: a thread that has the core burns it until its turn ends. A short spin costs nothing on idle cores
# (benchmarks/busy.py). Read once, as PyTorch is loaded; what the user has set wins.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
