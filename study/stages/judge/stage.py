"""The judges: two classifiers of real images, in whose features and labels generated images are measured.

The first, convolutional, and the second, fully connected, select together; the third, a residual network trained on
images that were moved otherwise, only reports: what it says of a generator is not flattered by the choice.
"""

from __future__ import annotations

from study.config import JUDGE_PRESETS, JudgeConfig
from study.engine.stage import Context, Outcome, Stage


def plan(config: JudgeConfig) -> str:
    return f"3 classifiers, {config.epochs} epochs each"


def run(context: Context) -> Outcome:
    """Train the judges on the training images; the test set is only ever reported."""
    from functools import partial

    from study.engine.search import Search, choice, named
    from study.engine.study import Candidate, open_study
    from study.stages.judge.table import rows
    from study.stages.judge.trial import KINDS, run_judge_trial
    from tracking.errors import StoreError

    description = "Classifiers, trained on real images, that measure generated ones."
    space = {"kind": choice(*KINDS.values())}
    search = Search({"val/accuracy": "maximize"}, space, named([{"kind": kind} for kind in KINDS.values()]))
    with open_study(context, description) as study:
        objective = partial(run_judge_trial, config=context.config, data=context.dataset, device=context.device)
        results = {result.params["kind"]: result for result in study.search(search, objective)}
        for kind in KINDS.values():
            if kind not in results:
                raise StoreError(f"no trial of the {kind} judge is complete: it failed, see its run")
        judges = {
            name: Candidate(results[kind], "val/accuracy", "maximize", picture="mistakes")
            for name, kind in KINDS.items()
        }
        return study.close(judges, rows)


JUDGE = Stage(
    name="judge",
    question="Which class is it? A classifier of real images, by which generated ones are measured.",
    settings=JudgeConfig,
    run=run,
    outputs=("judge", "second-judge", "third-judge"),
    presets=JUDGE_PRESETS,
    version=2,
)
