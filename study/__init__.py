"""The study: configuration, data, training, measures, search, and the stages that use them."""

import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

# OpenMP's threads spin while they wait for each other. Beside one busy process, a training step then takes 40 times as
# long: a thread that has the core burns it until its turn ends. A short spin costs nothing on idle cores
# (benchmarks/busy.py). Read once, as PyTorch is loaded; what the user has set wins.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `exit_code`: no traceback from an import that Ctrl-C cuts off

for _name in ("models", "tracking"):  # `python -m` looks into the current folder first
    _ours, _found = Path(__file__).parents[1] / _name, find_spec(_name)
    _there = Path(next(iter((_found and _found.submodule_search_locations) or [(_found and _found.origin) or ""])))
    if os.path.realpath(_there) != os.path.realpath(_ours):
        _sentence = (
            f"{_there} hides the package {_name!r} of this study: "
            f"run from another folder, as python -P -m study.run say, or take {_there.parent} out of PYTHONPATH"
        )
        if sys.argv[:1] != ["-m"]:  # imported by another program
            raise ImportError(_sentence)
        print(f"error: {_sentence}", file=sys.stderr)
        sys.exit(2)
