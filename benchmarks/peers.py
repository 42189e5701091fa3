"""Ours against what people would use: the same data, the same cores, in turn in the same run.

    pip install -e '.[bench]'
    STUDY_DATA_DIR=... python benchmarks/peers.py [autoencoder] [gan] [study]

`autoencoder`: seconds to a test MSE of 0.010 and of 0.0076 on MNIST at latent size 15. The script most people would
write has our layers and widths, but ReLU, Adam at 1e-3, torchvision's DataLoader, no schedule, and no BatchNorm at the
fully connected layers and the latents; pythae (https://github.com/clementchadebec/benchmark_VAE) is its trainer's steps
with its convolutional autoencoder for MNIST. Both are measured as they go, ours is one training for each goal, as long
as it needs; the clock runs for none while the test set is measured. LIMIT seconds at most. It is not even: ours has
settings of its own for each goal, found by trying, the peers have one rate each; the plain script takes all 60,000
images; pythae is trained once, and measured on a tenth of the test images.

`gan`: critic steps a second at the WGAN paper's and at the reference's settings, on vectors of 15 numbers: ours, and a
loop as https://github.com/eriklindernoren/PyTorch-GAN has it (wgan.py), with the same networks.

`study`: trials an hour where a trial does nothing but log: ours, Optuna with MLflow as MLflow's documentation has it
(a nested run a trial), and Ray Tune with its MLflow callback; all with SQLite. The peers neither resume nor retry.
"""

from __future__ import annotations

import study  # noqa: F401 - first: it says how OpenMP's threads wait

# isort: split
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchvision import datasets, transforms

from models.autoencoder import Autoencoder
from models.gan import Critic, Generator
from study.data import Dataset, load
from study.data.dataset import to_float
from study.training.autoencoder import reconstruction_loss, train_autoencoder
from study.training.gan import PAPER, REFERENCE, GanSettings, train_gan
from study.training.loops import Schedule

FOLDER = Path(os.environ.get("STUDY_DATA_DIR", "data"))
LATENT_DIM, LIMIT, REPEATS = 15, 150.0, 3
CHANNELS, FC_WIDTH = (16, 48), 512  # our autoencoder's
MAP = (CHANNELS[1], 7, 7)
MAP_SIZE = CHANNELS[1] * 7 * 7
GOALS = {
    0.010: (37_000, Schedule(epochs=1, batch_size=128, learning_rate=3e-2)),
    0.0076: (46_000, Schedule(epochs=3, batch_size=128, learning_rate=2e-2)),
}
"""Of each goal, the images and the settings of the shortest training of ours that was found to be enough."""
EVERY = 25  # batches between two measurements of a peer
GAN_VECTORS, TRIALS = 55_000, 60

Progress = Iterator[tuple[float, float]]
"""Seconds of training so far, and the test MSE then."""


def plain(data: Dataset) -> Progress:
    """The script most people would write."""
    first, second = CHANNELS
    model = nn.Sequential(
        *(nn.Conv2d(1, first, 4, 2, 1), nn.BatchNorm2d(first), nn.ReLU()),
        *(nn.Conv2d(first, second, 4, 2, 1), nn.BatchNorm2d(second), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(MAP_SIZE, FC_WIDTH), nn.ReLU(), nn.Linear(FC_WIDTH, LATENT_DIM)),
        *(nn.Linear(LATENT_DIM, FC_WIDTH), nn.ReLU(), nn.Linear(FC_WIDTH, MAP_SIZE), nn.ReLU(), nn.Unflatten(1, MAP)),
        *(nn.ConvTranspose2d(second, first, 4, 2, 1), nn.BatchNorm2d(first), nn.ReLU()),
        *(nn.ConvTranspose2d(first, 1, 4, 2, 1), nn.Sigmoid()),
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    images = datasets.MNIST(str(FOLDER), train=True, transform=transforms.ToTensor())
    spent, began = 0.0, time.perf_counter()
    while True:
        for number, (batch, _) in enumerate(DataLoader(images, 128, shuffle=True), start=1):
            loss = F.mse_loss(model(batch), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if number % EVERY == 0:
                spent += time.perf_counter() - began
                yield spent, reconstruction_loss(model, data.test.images)  # type: ignore[arg-type]
                began = time.perf_counter()


def pythae(data: Dataset) -> Progress:
    """pythae's loop, step by step, on its loader and with its optimiser; it has no test set of its own."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import AE, AEConfig
    from pythae.models.nn.benchmarks.mnist import Decoder_Conv_AE_MNIST, Encoder_Conv_AE_MNIST
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    shape = AEConfig(input_dim=data.image_shape, latent_dim=LATENT_DIM)
    model = AE(shape, encoder=Encoder_Conv_AE_MNIST(shape), decoder=Decoder_Conv_AE_MNIST(shape))
    images = BaseDataset(to_float(data.train.images), data.train.labels)
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(output_dir=folder, per_device_train_batch_size=128, learning_rate=1e-3, no_cuda=True)
        trainer = BaseTrainer(model, images, training_config=config)
        trainer.prepare_training()
        spent, began = 0.0, time.perf_counter()
        while True:
            model.train()
            for number, inputs in enumerate(trainer.train_loader, start=1):
                trainer._optimizers_step(model(inputs))
                if number % EVERY == 0:
                    spent += time.perf_counter() - began
                    yield spent, _test_loss(model, data)
                    began = time.perf_counter()


@torch.no_grad()
def _test_loss(model: nn.Module, data: Dataset) -> float:
    """On a tenth of the test images: pythae's layers take long."""
    model.eval()
    images = to_float(data.test.images[::10])
    made = torch.cat([model.decoder(model.encoder(part).embedding).reconstruction for part in images.split(200)])  # type: ignore[operator]
    model.train()
    return float(F.mse_loss(made, images))


def ours(data: Dataset, goal: float) -> tuple[float, float]:
    """Seconds and test MSE of our training for this goal."""
    count, settings = GOALS[goal]
    model = Autoencoder(LATENT_DIM, "conv+fc", data.image_shape)
    few = data.val.images[:2]  # the loop's own measurement, next to nothing
    began = time.perf_counter()
    train_autoencoder(model, data.train.images[:count], few, settings, lambda *_: None)
    return time.perf_counter() - began, reconstruction_loss(model, data.test.images)


def compare_autoencoders() -> None:
    data = load("mnist", FOLDER)
    times: dict[str, dict[float, list[float]]] = {}

    def note(name: str, goal: float, seconds: float) -> None:
        times.setdefault(name, {}).setdefault(goal, []).append(seconds)

    for seed in range(REPEATS):
        torch.manual_seed(seed)
        for goal in GOALS:
            seconds, loss = ours(data, goal)
            print(f"  ours, seed {seed}: test MSE {loss:.5f} in {seconds:.1f} s", file=sys.stderr)
            note("ours", goal, seconds if loss <= goal else float("inf"))
        for name, peer in {"plain script": plain, f"pythae {version('pythae')}": pythae}.items():
            if peer is pythae and seed:
                continue  # LIMIT seconds of it say enough
            open_goals, least = list(GOALS), float("inf")
            for seconds, loss in peer(data):
                least = min(least, loss)
                while open_goals and loss <= open_goals[0]:
                    note(name, open_goals.pop(0), seconds)
                if not open_goals or seconds > LIMIT:
                    break
            print(f"  {name}, seed {seed}: least test MSE {least:.5f} in {seconds:.0f} s", file=sys.stderr)
            for goal in open_goals:
                note(name, goal, float("inf"))
    print("| seconds to a test MSE of | " + " | ".join(f"{goal:g}" for goal in GOALS) + " |")
    print("|---" * (1 + len(GOALS)) + "|")
    for name, by_goal in times.items():
        middle = [median(by_goal[goal]) for goal in GOALS]
        shown = [f"{each:.1f}" if each < LIMIT else f"not in {LIMIT:.0f}" for each in middle]
        print(f"| {name} | {' | '.join(shown)} |", flush=True)


def train_peer_gan(generator: nn.Module, critic: nn.Module, vectors: Tensor, settings: GanSettings) -> None:
    """An epoch as PyTorch-GAN's wgan.py trains."""
    assert settings.clip_value is not None
    optimizer_g = torch.optim.RMSprop(generator.parameters(), lr=settings.learning_rate)
    optimizer_d = torch.optim.RMSprop(critic.parameters(), lr=settings.learning_rate)
    for number, (real,) in enumerate(DataLoader(TensorDataset(vectors), settings.batch_size, shuffle=True)):
        optimizer_d.zero_grad()
        fake = generator(torch.randn(len(real), settings.noise_dim)).detach()
        loss_d = -torch.mean(critic(real)) + torch.mean(critic(fake))
        loss_d.backward()
        optimizer_d.step()
        for parameter in critic.parameters():
            parameter.data.clamp_(-settings.clip_value, settings.clip_value)
        if number % settings.n_critic == 0:
            optimizer_g.zero_grad()
            loss_g = -torch.mean(critic(generator(torch.randn(len(real), settings.noise_dim))))
            loss_g.backward()
            optimizer_g.step()


def compare_gans() -> None:
    vectors = torch.randn(GAN_VECTORS, LATENT_DIM, generator=torch.Generator().manual_seed(0))
    print("| critic steps a second | ours | PyTorch-GAN's loop | ratio |\n|---|---|---|---|")
    for name, settings in {"the WGAN paper's settings": PAPER, "the reference's settings": REFERENCE}.items():
        speeds: dict[str, list[float]] = {"ours": [], "peer": []}
        for seed in range(REPEATS):
            for whose, found in speeds.items():
                torch.manual_seed(seed)
                generator = Generator(settings.noise_dim, LATENT_DIM, settings.width, settings.depth).train()
                critic = Critic(LATENT_DIM, settings.width).train()
                began = time.perf_counter()
                if whose == "ours":
                    none = torch.zeros(len(vectors), 0)
                    train_gan(generator, critic, vectors, none, settings, epochs=1, report=lambda *_: None)
                else:
                    train_peer_gan(generator, critic, vectors, settings)
                found.append(len(vectors) / settings.batch_size / (time.perf_counter() - began))
        middle = {whose: median(found) for whose, found in speeds.items()}
        ratios = [a / b for a, b in zip(*speeds.values(), strict=True)]
        shown = f"{middle['ours'] / middle['peer']:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name} | {middle['ours']:.0f} | {middle['peer']:.0f} | {shown} |", flush=True)


def our_trials(folder: Path) -> None:
    from harness import run, searched

    from tracking.store import open_store

    run(open_store(folder), searched(TRIALS))


def optuna_trials(folder: Path) -> None:
    import mlflow
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.set_experiment("peers")

    def objective(trial: optuna.Trial) -> float:
        with mlflow.start_run(nested=True):
            x, n = trial.suggest_float("x", 0.01, 100, log=True), trial.suggest_int("n", 1, 9)
            mlflow.log_params({"x": x, "n": n})
            mlflow.log_metric("val/loss", x, step=1)
            return x

    with mlflow.start_run():
        study_of_optuna = optuna.create_study(storage=f"sqlite:///{folder}/optuna.db")
        study_of_optuna.optimize(objective, n_trials=TRIALS)


def ray_trials(folder: Path) -> None:
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    def objective(config: dict[str, float]) -> None:
        tune.report({"val/loss": config["x"]})

    uri = f"sqlite:///{folder}/mlflow.db"
    callback = MLflowLoggerCallback(tracking_uri=uri, registry_uri=uri, experiment_name="peers")
    space = {"x": tune.loguniform(0.01, 100), "n": tune.randint(1, 10)}
    ray.init(log_to_driver=False, include_dashboard=False)
    try:
        run_config = tune.RunConfig(storage_path=str(folder), callbacks=[callback], verbose=0)
        tune.Tuner(
            objective, param_space=space, tune_config=tune.TuneConfig(num_samples=TRIALS), run_config=run_config
        ).fit()
    finally:
        ray.shutdown()


def compare_studies() -> None:
    sys.path.append(str(Path(__file__).parent))
    peers: dict[str, tuple[str, Callable[[Path], None]]] = {
        "ours": ("latent-study", our_trials),
        "Optuna, a nested MLflow run a trial": ("optuna", optuna_trials),
        "Ray Tune with its MLflow callback": ("ray", ray_trials),
    }
    print(f"| trials an hour, {TRIALS} cheap trials, one process (Ray: all cores) | |\n|---|---|")
    for name, (package, trials) in peers.items():
        try:
            named = f"{name} ({package} {version(package)})"
        except PackageNotFoundError:
            print(f"| {name} | not installed |")
            continue
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            trials(Path(folder))
            print(f"| {named} | {TRIALS / (time.perf_counter() - began) * 3600:,.0f} |", flush=True)


PARTS = {"autoencoder": compare_autoencoders, "gan": compare_gans, "study": compare_studies}


def main(parts: Sequence[str]) -> None:
    """Print a table a part, all of them if none is named."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    for part in parts or PARTS:
        PARTS[part]()
        print()


if __name__ == "__main__":
    main(sys.argv[1:])
