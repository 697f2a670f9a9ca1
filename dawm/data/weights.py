"""Weights in safetensors inside sealed folders: read back only into the shapes that were asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from dawm.data.files import whole_file
from dawm.data.sealed import Sealed
from dawm.errors import InputError


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str] | None = None) -> None:
    """A safetensors file with `facts` in its header, whole or not there. A full disk is an OSError, as it is not where
    safetensors itself writes."""
    content = save(dict(tensors), dict(facts) if facts else None)
    with whole_file(path) as part:
        part.write_bytes(content)


def save_weights(path: Path, module: nn.Module) -> None:
    """Parameters and buffers (normalizers included)."""
    write_tensors(path, {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()})


def load_weights(sealed: Sealed, name: str, module: nn.Module) -> None:
    """Fills `module` from a sealed file; InputError names the first tensor that is missing, extra or misshapen."""
    path = sealed.folder / name
    try:
        found = load(sealed.read(name))
    except SafetensorError as error:
        raise InputError(f"{path}: expected a safetensors file, found: {error}") from error
    expected = module.state_dict()
    for key in sorted(expected.keys() ^ found.keys()):
        raise InputError(f"{path}: tensor {key!r} is {'missing' if key in expected else 'not one of this model'}")
    for key, value in expected.items():
        if (found[key].shape, found[key].dtype) != (value.shape, value.dtype):
            raise InputError(
                f"{path}: tensor {key!r}: expected {value.dtype} of shape {tuple(value.shape)}, "
                f"found {found[key].dtype} of shape {tuple(found[key].shape)}"
            )
    module.load_state_dict(found)
