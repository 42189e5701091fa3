"""`python -m study.export`: a registered model as an ONNX program, or its weights as safetensors."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from study.api import module_of, registered
from study.checks import UsageError, check_file, expanded, replacing, writing
from study.cli import ModelConfig, command

if TYPE_CHECKING:
    from torch import Tensor, nn

NEEDS = {".onnx": ("onnx", "onnxruntime", "onnxscript"), ".safetensors": ()}  # extra packages by ending
TOLERANCE = 1e-5  # of the largest output, or of 1


@dataclass(frozen=True)
class ExportConfig(ModelConfig):
    """Write a registered model to a file that other programs read, with its config, data set, classes and digests.

    The ending of --out says what is written: .onnx the program, from `inputs` [batch, ...] to `outputs`, for any batch
    size, compared with PyTorch before it is written; .safetensors the weights.
    """

    out: Path
    """File to write, whose name ends in .onnx or .safetensors."""

    def __post_init__(self) -> None:
        if self.out.suffix.lower() not in NEEDS:
            raise ValueError(f"`out` must end in {' or '.join(NEEDS)}, but got {self.out}")


def run(config: ExportConfig) -> None:
    """Write the file that the settings ask for."""
    out, kind = expanded(config.out, "--out"), config.out.suffix.lower()
    check_file(out, "--out")
    missing = [name for name in NEEDS[kind] if find_spec(name) is None]
    if missing:
        raise UsageError(f"{kind} needs {', '.join(missing)}: pip install -e '.[export]'")
    version = registered(config.model, config.store, config.tracking_uri)
    facts = {"model": version.uri, "part": config.part or "all", "weights.sha256": version.weights_digest}
    texts = {name: each if isinstance(each, str) else json.dumps(each) for name, each in version.metadata.items()}
    module, inputs = module_of(version, config.part)
    content, checked = (_program if kind == ".onnx" else _weights)(module, inputs, facts | texts)
    with writing(out, "--out"), replacing(out) as new:
        new.write_bytes(content)
    print(f"{out}: {config.part + ' of ' if config.part else ''}{version.uri}, {checked}")


def _program(module: nn.Module, inputs: Tensor, facts: dict[str, str]) -> tuple[bytes, str]:
    """Return the ONNX program of a module, and how near it comes to it; UsageError: not within the tolerance."""
    import onnxruntime
    import torch

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
    program.model.metadata_props.update(facts)
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    rows = torch.cat([inputs, torch.rand(5, *inputs.shape[1:], generator=torch.Generator().manual_seed(0))])
    for count in (1, 2, len(rows)):
        (found,), expected = session.run(None, {"inputs": rows[:count].numpy()}), module(rows[:count]).detach().numpy()
        limit = TOLERANCE * max(1, np.abs(expected).max())
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=0, atol=limit):
            raise UsageError(f"the program differs from the model by more than {TOLERANCE}: it is not written")
    return content, f"within {TOLERANCE} of it on {len(rows)} inputs"


def _weights(module: nn.Module, _: Tensor, facts: dict[str, str]) -> tuple[bytes, str]:
    """Return the weights of a module as a safetensors file, and how many they are."""
    from safetensors.torch import save

    weights = {name: value.clone().contiguous() for name, value in module.state_dict().items()}
    count = sum(value.numel() for value in weights.values())
    return save(weights, facts), f"{count:,} numbers in {len(weights)} tensors"


main = command(ExportConfig, "export", run)

if __name__ == "__main__":
    sys.exit(main())
