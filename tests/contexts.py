"""What tests of the stages share: a context without a store; for GANs a judge of brightness and a fake study."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from fakes import FakeStudy
from torch import nn

from models.autoencoder import Autoencoder
from models.classifier import Judge
from models.gan import ToneCurve
from study.data.dataset import Dataset
from study.engine.stage import seed_for
from study.measures.judges import PREFIXES, Evaluator, Judges
from study.results import Result
from study.stages.generators import KINDS, GanInputs

CPU = torch.device("cpu")


class Brightness(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 2, 3))[:, None].expand(-1, 4) * 10


class NearestTenth(nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return -60 * (features[:, :1] - torch.arange(10.0)).square()


def uniform(values: torch.Tensor) -> torch.Tensor:
    """Images of these brightnesses, in tenths."""
    return (values / 10).reshape(-1, 1, 1, 1).expand(-1, 1, 28, 28).contiguous()


def brightness_judge() -> Judge:
    """Takes a uniform image of brightness k / 10 for a k."""
    judge = Judge("conv", image_shape=(1, 28, 28), classes=10, width=2)
    judge.features, judge.head = Brightness(), NearestTenth()  # type: ignore[assignment]
    return judge.eval()


def context_of(data: Dataset, settings: Any, **more: Any) -> Any:
    """A context without a store, whose judges read 99 % of the validation images right."""
    judges = {kind: SimpleNamespace(metrics={"val/accuracy": 0.99}, weights_digest=kind) for kind in KINDS}
    defaults = {"dataset": data, "settings": settings, "inputs": judges, "repeats": range(1), "has_reference": False}
    defaults |= {"device": CPU, "session": SimpleNamespace(seed=0), "seed_for": lambda number: seed_for(0, number)}
    defaults |= {"references": lambda known: known if more.get("has_reference") else {}}
    return SimpleNamespace(**defaults | more)


def inputs_of(context: Any) -> GanInputs:
    """Inputs whose untrained decoder makes all images alike: the judges see one class, whatever is generated."""
    torch.manual_seed(0)
    inputs = GanInputs(context)
    judges = Judges([Evaluator(brightness_judge(), context.dataset) for _ in PREFIXES])
    autoencoder = Autoencoder(3, "conv", (1, 28, 28)).eval()
    inputs.__dict__.update(autoencoder=autoencoder, architecture="conv", judges=judges, tone=ToneCurve())
    return inputs


def fake_study(context: Any, monkeypatch: Any, **fields: Any) -> FakeStudy:
    """A study of few samples that `context.open` gives, with `inputs_of(context)` as the stage's inputs."""
    study, inputs = FakeStudy(context, **fields), inputs_of(context)
    monkeypatch.setattr("study.training.sampling.FEWEST", 20)
    context.open = lambda _: nullcontext(study)
    monkeypatch.setattr("study.stages.generators.GanInputs", lambda _: inputs)
    nothing: tuple[list, list] = ([], [])
    monkeypatch.setattr("tracking.runs.metric_history", lambda run, name: study.trials[run].history.get(name, nothing))
    return study


def measured(part: str, params: dict[str, Any], **metrics: float) -> Result:
    """A trial of a table; "__" in a metric's name stands for "/"."""
    found, run = {name.replace("__", "/"): value for name, value in metrics.items()}, f"{part} {sorted(params.items())}"
    return Result(0, part, run, params, (found.get("val/fd", found.get("collapse/last", 0.0)),), run, found)
