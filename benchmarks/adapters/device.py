"""Batches on a device: sampled in memory and moved there, or sampled from a buffer that is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from adapters.flashbax import Flashbax
from adapters.replaybank import Replaybank
from adapters.torchrl import TorchRL
from contender import Contender, LeftOutError, Role, Setup
from timing import Trial
from transitions import OBS_SIZE, Transitions

SIZE = 256
PREFETCH = 2


@dataclass(frozen=True)
class DeviceSetup(Setup):
    """`device`: "cuda" or "cpu"; `obs_size`: numbers in an observation."""

    device: str = "cuda"
    obs_size: int = OBS_SIZE


class DeviceContender(Contender):
    """Times `length` batches in a row, none of them waited for, and then the device once: as a training loop has it.

    `unpack` gives arrays on the device; `columns` brings them back.
    """

    setup: DeviceSetup
    length: ClassVar[int] = 20

    def settle(self) -> None:
        """Wait until every batch so far is on the device."""
        if self.setup.device == "cuda":
            import torch

            torch.cuda.synchronize()

    def sampling(self, size: int) -> Trial:
        sample, unpack = self.sample, self.unpack

        def row_of_batches(size: int) -> None:
            for _ in range(self.length):
                unpack(sample(size))
            self.settle()

        return Trial(lambda calls: [(size,)] * calls, row_of_batches, self.length)

    def where(self, array: Any) -> str:
        """The kind of device that an array is on."""
        return str(array.device.type)


class ReplaybankMoved(DeviceContender, Replaybank):
    name = "replaybank, to_torch"

    def build(self) -> None:
        super().build()
        self.sample = lambda size: self._buffer.sample(size).to_torch(self.setup.device)

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        return {name: tensor.cpu().numpy() for name, tensor in super().columns(batch).items()}


class ReplaybankAhead(ReplaybankMoved):
    """Sampled and moved in the background."""

    name = f"replaybank, batches, prefetch={PREFETCH}, pinned"
    pin: ClassVar[bool] = True

    def build(self) -> None:
        super().build()
        self._ahead: dict[int, Any] = {}
        self.sample = self._next

    def _next(self, size: int) -> Any:
        if size not in self._ahead:
            self._ahead[size] = self._buffer.batches(size, self.setup.device, PREFETCH, self.pin)
        return next(self._ahead[size])


class ReplaybankUnpinned(ReplaybankAhead):
    name = f"replaybank, batches, prefetch={PREFETCH}, not pinned"
    pin = False


class TorchRLOnDevice(DeviceContender, TorchRL):
    name = "TorchRL, storage on the device"

    def device(self) -> str:
        return self.setup.device

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        return super().columns(batch.cpu())


class TorchRLAhead(DeviceContender, TorchRL):
    """Stored in memory, sampled and pinned in the background, moved by the caller. It has one size of batches."""

    name = f"TorchRL, storage in memory, prefetch={PREFETCH}, pinned"

    def build(self) -> None:
        super().build()
        self.sample = self._moved

    def options(self) -> dict[str, Any]:
        return {"batch_size": SIZE, "prefetch": PREFETCH, "pin_memory": self.setup.device == "cuda"}

    def _moved(self, size: int) -> Any:
        if size != SIZE:
            raise ValueError(f"sample: expected {SIZE}, the size it was made for, given {size}")
        return self._buffer.sample().to(self.setup.device, non_blocking=True)

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        return super().columns(batch.cpu())


class FlashbaxOnDevice(DeviceContender, Flashbax):
    name = "Flashbax, on the device"

    @classmethod
    def check(cls, setup: Setup) -> None:
        super().check(setup)
        import jax

        if isinstance(setup, DeviceSetup) and setup.device == "cuda" and jax.default_backend() != "gpu":
            raise LeftOutError("this JAX has no GPU")

    def build(self) -> None:
        self.backend = "gpu" if self.setup.device == "cuda" else "cpu"
        self.fields = {
            name: ((self.setup.obs_size,) if name.endswith("obs") else shape, dtype)
            for name, (shape, dtype) in Flashbax.fields.items()
        }
        super().build()
        self.sample = self._dispatch

    def settle(self) -> None:
        """A device runs programs in turn: the key is the last one's."""
        self._jax.block_until_ready(self._key)

    def where(self, array: Any) -> str:
        platforms = {device.platform for device in array.devices()}
        return "cuda" if platforms == {"gpu"} else "+".join(sorted(platforms))


class Copy(DeviceContender):
    """The bytes of a batch, copied from pinned memory: nothing is sampled."""

    name = "one copy of as many bytes"
    role = Role.FLOOR

    def build(self) -> None:
        import torch

        row = np.dtype([(name, "f4", self.setup.obs_size) for name in ("obs", "next_obs")]).itemsize + 8 + 4 + 1 + 1
        self._bytes = torch.zeros(SIZE * row, dtype=torch.uint8, pin_memory=self.setup.device == "cuda")
        self.sample = lambda size: self._bytes.to(self.setup.device, non_blocking=True, copy=True)

    def fill(self, data: Transitions) -> None:
        """It holds none."""

    def set_priorities(self, priorities: NDArray[np.float32]) -> None:
        """It has none."""

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        return (batch,)


DEVICE_CONTENDERS: tuple[type[DeviceContender], ...] = (
    ReplaybankMoved,
    ReplaybankAhead,
    ReplaybankUnpinned,
    TorchRLOnDevice,
    TorchRLAhead,
    FlashbaxOnDevice,
    Copy,
)
