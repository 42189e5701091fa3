"""The judges' rows of the final table."""

from __future__ import annotations

from collections.abc import Mapping

from study.harness.stage import Row
from study.science.judges import weakness
from study.stages.judge.trial import KINDS
from tracking.registry import Version


def rows(made: Mapping[str, Version]) -> tuple[Row, ...]:
    """Test accuracy of both, and whether one is weak."""
    first, second = (made[kind] for kind in KINDS)
    names = {"": first, f", second judge ({second.name} v{second.number})": second}
    found = [Row(f"test accuracy{name}", f"{version.metrics['test/accuracy']:.2%}") for name, version in names.items()]
    for name, version in {"judge": first, "second judge": second}.items():
        weak = weakness(version.metrics["val/accuracy"])
        if weak:
            found.append(Row(f"note: the {name} is weak", weak))
    return tuple(found)
