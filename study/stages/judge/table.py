"""The judges' rows of the final table."""

from __future__ import annotations

from collections.abc import Mapping

from study.engine.stage import Row
from study.measures.judges import weakness
from study.stages.judge.trial import KINDS
from tracking.registry import Version

ACCURACY = "test/accuracy"


def rows(made: Mapping[str, Version]) -> tuple[Row, ...]:
    """Test accuracy of each, and whether one is weak."""
    found = []
    for kind in KINDS:
        version = made[kind]
        name = kind.replace("-", " ")
        role = "reports only" if kind == list(KINDS)[-1] else "selects"
        label = f"test accuracy, {name} ({role}; {version.name} v{version.number})"
        found.append(Row(label, f"{version.metrics[ACCURACY]:.2%}", metric=ACCURACY))
        weak = weakness(version.metrics["val/accuracy"])
        if weak:
            found.append(Row(f"note: the {name} is weak", weak))
    return tuple(found)
