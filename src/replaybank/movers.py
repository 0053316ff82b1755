"""PyTorch: what brings batches to a device in the background."""

from __future__ import annotations

from replaybank.batch import Batch
from replaybank.extras import of_extra
from replaybank.tensors import bytes_of, tensors_in

with of_extra("torch"):
    import torch


def mover(device: torch.device | str, pin: bool) -> SideStream | ToDevice:
    """What brings batches to `device` in the background."""
    target = torch.device(device)
    return SideStream(target, pin) if target.type == "cuda" else ToDevice(target)


class ToDevice:
    """Tensors on a device that is no CUDA device; on the CPU they share the batch's memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def move(self, batch: Batch) -> Batch:
        return batch.to_torch(self._device)

    def hand_out(self, moved: Batch) -> Batch:
        return moved


class SideStream:
    """Tensors on a CUDA device, copied on a stream of their own beside whatever runs there.

    Copies from pinned memory (`pin`) do not stop the thread that starts them.
    """

    def __init__(self, device: torch.device, pin: bool) -> None:
        self._device = device
        self._pin = pin
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def move(self, batch: Batch) -> tuple[Batch, torch.Tensor, torch.cuda.Event]:
        block, places = batch.packed()
        with torch.cuda.stream(self._stream):
            # PyTorch keeps the pinned memory until the copy from it is done.
            whole = bytes_of(block).pin_memory() if self._pin else bytes_of(block)
            moved = whole.to(self._device, non_blocking=self._pin)
            done = self._stream.record_event()
        return Batch(block, places, tensors_in(moved, block.dtype, None)), moved, done

    def hand_out(self, moved: tuple[Batch, torch.Tensor, torch.cuda.Event]) -> Batch:
        batch, memory, done = moved
        current = torch.cuda.current_stream(self._device)
        current.wait_event(done)
        memory.record_stream(current)  # so it is not used again before what this stream does with it is done
        return batch
