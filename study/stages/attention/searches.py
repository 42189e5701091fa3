"""What the attention stage runs: the exact copy, and the layers that learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.attention import ALPHA
from models.learned_attention import ENCODINGS, Encoding
from study.checks import MOST_REPEATS
from study.engine.search import Params, Search, choice, integer, log_uniform, named
from study.engine.stage import Context

if TYPE_CHECKING:
    from tracking.registry import Direction

EXACT, CONVOLUTION, LINEAR, MIRROR = "exact", "convolution", "fully connected", "mirror"  # parts of the study
ALL, RESTRICTED = "all", "5"  # windows; a window of 5 has room for a 4x4 kernel
WINDOWS = ("3", RESTRICTED, "7", ALL)
HEADS = (4, 9, 16)  # 16: one for each offset of the 4x4 kernel
ATTENTION, CONVOLUTIONS = "attention", "convolutions"  # that learn to mirror


@dataclass(frozen=True)
class Main:
    """A kind of layer that is trained several times; `title` is what tables call it."""

    title: str
    encoding: Encoding
    content: bool  # whether scores see the content


MAIN = (
    Main("quadratic", "quadratic", False),
    Main("learned places", "separate", False),
    Main("added places", "added", True),  # to the content, as BERT does
)


def exact_search() -> Search:
    """One trial: the copy at the sharpness where float64 sees no tail."""
    return Search({"val/loss": "minimize"}, {"alpha": log_uniform(1, 100)}, named([{"alpha": ALPHA}]))


def learned_searches(context: Context) -> dict[str, Search]:
    """By part; all by the error on validation images relative to the outputs."""
    config = context.config
    objective: dict[str, Direction] = {"val/error": "minimize"}
    repeat = {"repeat": integer(0, MOST_REPEATS)}
    heads = {"encoding": choice(*ENCODINGS), "heads": choice(*HEADS), "content": choice(False, True)}

    def fixed(kinds: list[Params]) -> dict[str, Params]:
        return named([{**kind, "repeat": number} for number in range(config.repeats) for kind in kinds])

    linear = [{"encoding": main.encoding, "heads": HEADS[-1], "content": main.content} for main in MAIN]
    convolution = [{**kind, "window": window} for kind in linear for window in (ALL, RESTRICTED)]
    windows = {"window": choice(*WINDOWS)}
    learners = {"learner": choice(ATTENTION, CONVOLUTIONS)}
    return {
        CONVOLUTION: Search(objective, heads | windows | repeat, fixed(convolution), config.free_trials),
        LINEAR: Search(objective, heads | repeat, fixed(linear), config.free_trials),
        MIRROR: Search(objective, learners | repeat, fixed([{"learner": each} for each in (ATTENTION, CONVOLUTIONS)])),
    }
