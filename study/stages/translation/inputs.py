"""What every training and every baseline of the translation stage is made with and measured by."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from models.classifier import Judge, JudgeKind
from study import plots
from study.config import TranslationConfig
from study.data.dataset import Dataset, Split, to_float, to_pixels
from study.engine.search import Search, Trial, choice, named
from study.engine.study import Study
from study.measures.translation import Truth
from study.training.classifier import ClassifierSettings, accuracy, train_judge
from study.training.domains import domains
from study.training.translation_settings import Task
from tracking.stored import logged_model

KINDS: tuple[JudgeKind, ...] = ("conv", "mlp")  # of the judges of a domain B, like those of the images themselves
SHOWN = 10  # test images that every picture shows: one of each class, of the first ten classes


JUDGES = ("judge", "second-judge")


@dataclass(frozen=True)
class TranslationInputs:
    """Each part is made when it is first needed."""

    study: Study
    _truths: dict[Task, Truth] = field(default_factory=dict)
    _val: dict[Task, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def data(self) -> Dataset:
        return self.study.context.dataset

    @property
    def device(self) -> torch.device:
        return self.study.context.device

    def pairs_an_epoch(self, config: TranslationConfig) -> int:
        """The same for each pairing, so that each model takes the same number of steps."""
        return min(config.images, len(self.data.train) // 2)

    def val(self, task: Task) -> tuple[Tensor, Tensor]:
        """Validation images of domain A and their true translations, uint8 [N, C, S, S]."""
        if task not in self._val:
            self._val[task] = domains(task, self.data.val.images)
        return self._val[task]

    def truth(self, task: Task) -> Truth:
        """Test images of both domains, and the judges of domain B."""
        if task not in self._truths:
            a, b = domains(task, self.data.test.images)
            judges = self._judges(task)
            self._truths[task] = Truth(a, b, self.data.test.labels, judges, len(self.data.classes))
        return self._truths[task]

    def shown(self, task: Task) -> tuple[Tensor, Tensor]:
        """The test images of domain A that every picture shows, and their true translations, uint8 [SHOWN, C, S, S]."""
        truth = self.truth(task)
        first = [(truth.labels == each).nonzero()[:1, 0] for each in range(min(SHOWN, truth.classes))]
        rest = torch.arange(len(truth.labels), device=self.device)
        chosen = torch.cat([*first, rest[~torch.isin(rest, torch.cat(first))]])[:SHOWN]
        return truth.a[chosen], truth.b[chosen]

    def _judges(self, task: Task) -> list[Judge]:
        """The registered judges where domain B are the images themselves; else classifiers trained on its images."""
        context = self.study.context
        if task == "outline":
            return [context.module(kind, Judge) for kind in JUDGES]
        search = Search(
            {"val/accuracy": "maximize"}, {"kind": choice(*KINDS)}, named([{"kind": kind} for kind in KINDS])
        )
        found = self.study.search(search, partial(self._train_judge, task=task), f"judges, {task}", tools=True)
        by_kind = {result.params["kind"]: result.run_id for result in found}
        return [logged_model(by_kind[kind]).rebuild(Judge).to(self.device) for kind in KINDS]

    def _train_judge(self, trial: Trial, *, task: Task) -> tuple[float]:
        """Train and log a classifier of domain B. Returns `val/accuracy`."""
        data = self.data
        train, val, test = (
            Split(domains(task, split.images)[1], split.labels) for split in (data.train, data.val, data.test)
        )
        module = {**trial.params, "image_shape": list(data.image_shape), "classes": len(data.classes)}
        judge = Judge(**module).to(self.device)
        settings = ClassifierSettings(**self.study.context.others["judge"])
        train_judge(judge, train, val, settings, trial.report)
        val_accuracy = accuracy(judge, val)
        trial.run.log({"val/accuracy": val_accuracy, "test/accuracy": accuracy(judge, test)}, step=settings.epochs)
        trial.run.log_image("samples", plots.grid(to_pixels(val.images[: 2 * SHOWN]), SHOWN), step=0)
        losses = {"training": trial.history["train/loss"]}
        trial.run.log_figure("loss", plots.curves(losses, "epoch", "cross entropy", f"Judge of domain B, {task}"))
        trial.log_model(judge, to_float(val.images[:2]), {"module": module})
        return (val_accuracy,)
