"""A store of small models that nobody has trained, registered as a study would register its champions."""

from pathlib import Path

import torch
from torch import nn

from models.autoencoder import Autoencoder
from models.classifier import Judge
from models.gan import LatentGenerator
from models.translation import Translator
from tracking import registry
from tracking.models import log_model
from tracking.runs import study_run, trial_run
from tracking.store import open_store

SHAPE, CLASSES, NOISE = [1, 28, 28], 10, 6
FACTS = {"dataset": "digits", "data_digest": "0123", "classes": [str(label) for label in range(CLASSES)], "seed": 0}


def models() -> dict[str, tuple[nn.Module, torch.Tensor, dict[str, dict]]]:
    """The models by kind: module, an example of its inputs, its config."""
    torch.manual_seed(1)
    images = torch.rand(2, *SHAPE)
    judge = {"kind": "conv", "image_shape": SHAPE, "classes": CLASSES, "width": 4, "feature_dim": 8}
    autoencoder = {"latent_dim": 5, "architecture": "conv", "image_shape": SHAPE}
    translator = {"image_shape": SHAPE}
    found: dict[str, tuple[nn.Module, torch.Tensor, dict[str, dict]]] = {
        "judge": (Judge(**judge), images, {"module": judge}),  # type: ignore[arg-type]
        "autoencoder": (Autoencoder(**autoencoder), images, {"module": autoencoder}),  # type: ignore[arg-type]
        "translator": (Translator(**translator), images, {"module": translator, "translation": {}}),  # type: ignore[arg-type]
    }
    for kind, width in (("latent-gan", NOISE), ("conditional-gan", NOISE + CLASSES)):
        module = {"input_dim": width, "latent_dim": 5, "architecture": "conv", "image_shape": SHAPE, "width": 16}
        config = {"module": module, "settings": {"noise_dim": NOISE}}
        found[kind] = (LatentGenerator(**module), torch.randn(2, width), config)  # type: ignore[arg-type]
    for made, _, _ in found.values():
        for weights in made.parameters():
            weights.data *= 2  # outputs that differ from input to input, while rounding stays small
    return found


def store_of_models(folder: Path) -> Path:
    """A new store with version 1 of `digits-KIND`, the champion, for every kind of `models`."""
    store = open_store(folder)
    about = {"title": "", "description": "", "tags": {}}
    with study_run(store, store.experiment("digits/all"), "digits/all/0", **about) as parent:  # type: ignore[arg-type]
        for kind, (module, example, config) in models().items():
            with trial_run(parent, kind, {}, {}) as run:
                run.log({"val/loss": 1.0})
                log_model(run, module, example, config, FACTS)
            version = registry.register(f"digits-{kind}", run.run_id, "", {})
            registry.promote(version, "val/loss", "minimize")
    return folder
