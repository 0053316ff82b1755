"""PyTorch: tensors for the block of memory that a batch is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank.extras import of_extra

with of_extra("torch"):
    import torch


def tensors_of(
    block: NDArray[Any], device: torch.device | str | None, dtype: torch.dtype | None
) -> dict[str, torch.Tensor]:
    """The fields of a structured array of shape () as tensors that share one block of memory on `device`.

    The block moves in one transfer; to CUDA from pinned memory and without waiting. `dtype` converts floating-point
    fields, each into memory of its own.
    """
    # Asked here: PyTorch's own look at what is neither can end the process.
    if not isinstance(device, str | int | torch.device | None):
        raise TypeError(f"to_torch: device: expected a device or its name, given {type(device).__name__}")
    if not isinstance(dtype, torch.dtype | None):
        raise TypeError(f"to_torch: dtype: expected a torch.dtype, given {type(dtype).__name__}")
    whole = bytes_of(block)
    target = torch.device("cpu" if device is None else device)
    if target.type == "cuda":
        whole = whole.pin_memory().to(target, non_blocking=True)
    elif target.type != "cpu":
        whole = whole.to(target)
    return tensors_in(whole, block.dtype, dtype)


def bytes_of(block: NDArray[Any]) -> torch.Tensor:
    """A structured array of shape () as uint8 [nbytes] of the same memory."""
    return torch.from_numpy(block.reshape(1).view(np.uint8))


def tensors_in(whole: torch.Tensor, block: np.dtype[Any], dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """The fields of `block` in `whole` (uint8 [nbytes]), without a copy but where `dtype` converts one."""
    tensors: dict[str, torch.Tensor] = {}
    for name, (field, offset, *_) in (block.fields or {}).items():
        item = whole[offset : offset + field.itemsize].view(_torch_dtype(field.base)).view(field.shape)
        tensors[name] = item.to(dtype) if dtype is not None and item.is_floating_point() else item
    return tensors


_TORCH_DTYPES: dict[np.dtype[Any], torch.dtype] = {}


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    if dtype not in _TORCH_DTYPES:
        _TORCH_DTYPES[dtype] = torch.from_numpy(np.empty(0, dtype)).dtype
    return _TORCH_DTYPES[dtype]
