"""The network on its device: digest, threads, memory, precision, and one forward pass for all poolers."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from featstore.errors import ConflictError, FeatstoreError, PluginError, SetupError, UsageError
from featstore.spec import Backbone, PoolFunction, Tokens

if TYPE_CHECKING:
    import torch

log = logging.getLogger("featstore")


class Way(NamedTuple):
    """One way from the network to a vector: a layer, ``11`` or ``11.query``, and how its tokens are pooled.

    ``regions``: only inside the inputs' masks.
    """

    layer: str
    pool: PoolFunction
    regions: bool = False


def choose_device(name: str) -> str:
    """Resolve ``auto``, and check that the device is there.

    Raises:
        SetupError: no such device here. UsageError: no such kind of device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind = name.partition(":")[0]
    if kind not in {"cpu", "cuda", "mps"}:
        raise UsageError(f"--device {name!r} isn't one of auto, cpu, cuda, cuda:N, mps.")
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise SetupError(
            f"There is no device {name!r} here: {str(error).splitlines()[0]}", hint="--device cpu"
        ) from error
    return name


def weights_digest(module: torch.nn.Module | None) -> str:
    """SHA-256 over the state dict's sorted (name, dtype, shape, bytes); of nothing where there is no network."""
    import torch

    digest = hashlib.sha256()
    state: Mapping[str, torch.Tensor] = module.state_dict() if module is not None else {}
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks: giving them back between layers costs a CPU a quarter of its speed."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def capability() -> dict[str, Any]:
    """What must be equal for equal bits: recorded in the plan, compared when a run is resumed."""
    import torch

    return {
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


@dataclass(slots=True)
class Network:
    """A backbone on a device, ready to run.

    Attributes:
        channels_last: memory format of 4-D batches; twice as fast for convolutions on a CPU.
        halved: how often a batch had to be halved for want of memory.
    """

    backbone: Backbone
    device: str
    amp: str
    channels_last: bool
    halved: int = 0

    @classmethod
    def place(cls, backbone: Backbone, device: str, amp: str, threads: int | None, channels_last: bool) -> Network:
        """Move the network to its device and set it up.

        Raises:
            SetupError: it doesn't fit into the device's memory.
        """
        import torch

        keep_freed_memory()
        if threads:
            torch.set_num_threads(threads)
        network = cls(backbone, device, amp, channels_last)
        if backbone.module is not None:
            try:
                backbone.module.eval().requires_grad_(False)
                # torch has another format for volumes, and refuses to bring their weights into this one.
                flat = all(parameter.ndim < 5 for parameter in backbone.module.parameters())
                layout = torch.channels_last if channels_last and flat else torch.contiguous_format
                backbone.module.to(device, memory_format=layout)  # type: ignore[call-overload]
            except torch.OutOfMemoryError as error:
                raise SetupError(
                    f"The network doesn't fit into the memory of {device}.", hint="--device cpu"
                ) from error
        return network

    def pooled(
        self, batch: torch.Tensor, ways: Sequence[Way], masks: torch.Tensor | None = None
    ) -> list[np.ndarray[Any, Any]]:
        """One forward pass, pooled in every way asked for: float32 arrays of shape (N, …), one a way.

        Args:
            masks: float32 (N, height, width) of 0…1, where a way needs them; none is all 0.

        Raises:
            SetupError: out of memory even for one input at a time.
            ConflictError: a pooler can't work on this backbone's tokens.
        """
        import torch

        try:
            with torch.inference_mode():
                on_device = batch.to(self.device, non_blocking=True)
                if self.channels_last and on_device.ndim == 4:
                    on_device = on_device.contiguous(memory_format=torch.channels_last)
                with self._autocast():
                    layers = self._tokens(on_device, list(dict.fromkeys(way.layer for way in ways)))
                inside = {way.layer: _token_weights(layers[way.layer], masks) for way in ways if way.regions}
                return [
                    self._array(self._pool(way, layers[way.layer], inside.get(way.layer)), len(batch)) for way in ways
                ]
        except RuntimeError as error:
            # A CPU has no class of its own for it.
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            if len(batch) == 1:
                raise SetupError(
                    f"Out of memory on {self.device} for a single input.",
                    hint="--device cpu, or a smaller network",
                ) from error
        # Outside the except block, so that the failed pass's tensors are gone before the next try.
        self.halved += 1
        log.warning("Out of memory on %s: halving this batch of %d.", self.device, len(batch))
        torch.cuda.empty_cache()
        half = len(batch) // 2
        halves = [
            self.pooled(batch[part], ways, None if masks is None else masks[part])
            for part in (slice(half), slice(half, None))
        ]
        return [np.concatenate(pair) for pair in zip(*halves, strict=True)]

    def _autocast(self) -> Any:
        import torch

        if self.amp == "off":
            return contextlib.nullcontext()
        dtype = torch.bfloat16 if self.amp == "bf16" else torch.float16
        return torch.autocast(self.device.partition(":")[0], dtype=dtype)

    def _tokens(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
        found = self.backbone.forward(batch, layers)
        for layer in layers:
            if layer not in found:
                raise PluginError(f"The backbone gave the layers {', '.join(found)}, and not {layer!r}.")
            tokens = found[layer]
            values = tokens.values
            positions = tokens.prefix + (tokens.grid[0] * tokens.grid[1] if tokens.grid else values.shape[1])
            if values.ndim != 3 or len(values) != len(batch) or (tokens.grid and positions != values.shape[1]):
                raise PluginError(
                    f"The backbone gave values of shape {tuple(values.shape)} (prefix {tokens.prefix}, grid "
                    f"{tokens.grid}) for {len(batch)} inputs; it must give (N, L, D) with prefix + H·W = L."
                )
        return found

    def _pool(self, way: Way, tokens: Tokens, inside: torch.Tensor | None) -> Any:
        values = tokens.values
        if values.dtype.itemsize < 4:
            values = values.float()  # half precision loses digits in sums over thousands of tokens
        weights = {"weights": inside.to(values)} if way.regions and inside is not None else {}
        try:
            return way.pool(values, prefix=tokens.prefix, grid=tokens.grid, **weights)
        except FeatstoreError:
            raise
        except ValueError as error:
            raise ConflictError(
                f"A pooler can't work on what this backbone gives: {error}", hint="choose another --pooler"
            ) from error

    @staticmethod
    def _array(pooled: Any, rows: int) -> np.ndarray[Any, Any]:
        array: np.ndarray[Any, Any] = pooled.float().cpu().numpy()
        if array.ndim not in {2, 3} or len(array) != rows or not array.size:
            raise PluginError(f"The pooler gave an array of shape {array.shape} for {rows} inputs.")
        return array

    def shapes(self, ways: Sequence[Way]) -> list[tuple[int, ...]]:
        """The shape of one row for each way, told by running the network on zeros."""
        import torch

        zeros = torch.zeros((1, *self.backbone.input_shape))
        masks = torch.ones((1, *self.backbone.input_shape[-2:])) if any(way.regions for way in ways) else None
        return [array.shape[1:] for array in self.pooled(zeros, ways, masks)]


def _token_weights(tokens: Tokens, masks: torch.Tensor | None) -> torch.Tensor:
    """(N, H·W): the share of each token's part of the image that lies inside the mask."""
    import torch

    if tokens.grid is None:
        raise ConflictError(
            "A region pooler needs tokens that lie on a grid, and those of this layer don't.",
            hint="choose a --layer that gives a map, or another --pooler",
        )
    assert masks is not None
    return torch.nn.functional.adaptive_avg_pool2d(masks[:, None].float(), tokens.grid).flatten(1)
