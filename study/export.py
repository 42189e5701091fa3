"""`python -m study.export`: a registered model as an ONNX program, or its weights as safetensors."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from study.checks import UsageError, check_file, expanded, replacing, writing
from study.cli import exit_code, parse, words
from study.registered import Part, module_of, registered

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tracking.registry import Version

NEEDS = {".onnx": ("onnx", "onnxruntime", "onnxscript"), ".safetensors": ("safetensors",)}
"""The packages that write each kind of file, by its ending."""
TOLERANCE = 1e-5  # of the largest output, or of 1
MORE_ROWS = 5  # on which a program is checked, beside those that the model was logged with


@dataclass(frozen=True)
class ExportConfig:
    """Write a registered model to a file that other programs read, after a check that its files are those that were
    logged.

    The ending of --out says what is written: .onnx the program, from `inputs` [batch, ...] to `outputs`, for any batch
    size, held against PyTorch before it is written; .safetensors the weights. Both say in their metadata what the model
    is: its config, data set, classes and digests. An existing file is replaced.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Registered model: NAME, which is its champion, NAME@ALIAS or NAME/NUMBER; mnist-latent-gan say."""
    out: Path
    """File to write, whose name ends in .onnx or .safetensors."""
    part: Part | None = None
    """Only this part of an autoencoder: from images to latents, or from latents to images."""
    store: Path = Path("mlruns")
    """Folder of the results."""
    tracking_uri: str | None = None
    """MLflow server in place of the folder."""

    def __post_init__(self) -> None:
        if self.out.suffix.lower() not in NEEDS:
            raise ValueError(f"`out` must end in {' or '.join(NEEDS)}, but got {self.out}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file that the command line asks for. Returns the exit code."""
    return exit_code(lambda: _run(words(arguments)))


def _run(arguments: Sequence[str]) -> None:
    config = parse(ExportConfig, arguments, "export")
    out, kind = expanded(config.out, "--out"), config.out.suffix.lower()
    check_file(out, "--out")
    missing = [name for name in NEEDS[kind] if find_spec(name) is None]
    if missing:
        raise UsageError(f"a file that ends in {kind} needs {', '.join(missing)}: pip install -e '.[export]'")
    version = registered(config.model, config.store, config.tracking_uri)
    if kind == ".onnx":
        content, checked = _program(version, config.part)
    else:
        content, checked = _weights(version, config.part)
    with writing(out, "--out"), replacing(out) as new:
        new.write_bytes(content)
    print(f"{out}: {config.part + ' of ' if config.part else ''}{version.uri}, {checked}")


def _program(version: Version, part: Part | None) -> tuple[bytes, str]:
    """The ONNX program of a model, and how near it comes to the model.

    Raises:
        UsageError: The two differ, or the model has no such part.
    """
    import onnxruntime
    import torch

    module, inputs = module_of(version, part)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PyTorch and onnxscript have to say to each other
        program = torch.onnx.export(
            module,
            (inputs,),
            input_names=["inputs"],
            output_names=["outputs"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(_facts(version, part))
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(rows: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"inputs": rows.numpy()})[0])

    rows = torch.cat([inputs, torch.rand(MORE_ROWS, *inputs.shape[1:], generator=torch.Generator().manual_seed(0))])
    apart = [_apart(module, run(rows[:count]), rows[:count]) for count in (1, 2, len(rows))]
    for each in apart:
        if not each <= TOLERANCE:  # so that NaN is refused too
            raise UsageError(
                f"the program differs from {version.uri} by {each:.1e}, more than {TOLERANCE}: not written"
            )
    return content, f"within {max(apart):.1e} of it on {len(rows)} inputs"


def _apart(module: nn.Module, found: Tensor, rows: Tensor) -> float:
    """The largest difference of outputs from the module's own, as a share of the largest output where that is above 1;
    infinite if their shapes are not the same.
    """
    import torch

    with torch.no_grad():
        expected = module(rows)
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1))


def _weights(version: Version, part: Part | None) -> tuple[bytes, str]:
    """The weights of a model as a safetensors file, and how many they are."""
    import torch
    from safetensors.torch import save

    state = version.state_dict() if part is None else module_of(version, part)[0].state_dict()
    weights = {name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    count = sum(value.numel() for value in weights.values())
    return save(weights, _facts(version, part)), f"{count:,} numbers in {len(weights)} tensors"


def _facts(version: Version, part: Part | None) -> dict[str, str]:
    """What the model was logged with, as text: JSON where it is no text."""
    facts = {"model": version.uri, "part": part or "all", "weights.sha256": version.weights_digest, **version.metadata}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}


if __name__ == "__main__":
    sys.exit(main())
