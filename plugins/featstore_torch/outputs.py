"""What a network and its inner modules give: checked to be one row an input, and read as tokens."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import nn

from featstore import Tokens, UsageError
from featstore.errors import did_you_mean
from featstore.spec import Format

LAST = "last"

_FORMATS: dict[str, Format] = {name: name for name in get_args(Format)}
_BY_AXES: dict[int, Format] = {2: "NC", 3: "NLC", 4: "NCHW"}

# Of one row, this many values at most are compared: a network has hundreds of modules.
_COMPARED = 1024


@dataclass(frozen=True, slots=True)
class Layout:
    """How outputs are to be read.

    Attributes:
        format: ``NC``, ``NLC``, ``NCHW`` or ``NHWC``. None: two axes are NC, three NLC, four NCHW.
        prefix: how many leading tokens of an NLC output are no positions of the image.
    """

    format: Format | None = None
    prefix: int = 0

    @classmethod
    def parse(cls, format: str | None, prefix: str) -> Layout:
        """Read the settings ``layout`` and ``prefix``.

        Raises:
            UsageError: they can't be read.
        """
        if format is not None and format not in _FORMATS:
            raise UsageError(f"layout={format} isn't one of {', '.join(_FORMATS)}.{did_you_mean(format, _FORMATS)}")
        if not prefix.isdecimal():
            raise UsageError(f"prefix={prefix} isn't a number of tokens, such as 1 for a class token.")
        return cls(None if format is None else _FORMATS[format], int(prefix))

    def tokens(self, output: Any) -> Tokens:
        """One layer's output → tokens.

        Raises:
            UsageError: it is no tensor of floats, or has other axes than the layout. The message goes on from the
                layer's name.
        """
        if not torch.is_tensor(output):
            raise UsageError(f"it gives {_describe(output)}, and features are one tensor")
        format_ = self.format or _BY_AXES.get(output.ndim)
        if not output.is_floating_point() or format_ is None or output.ndim != len(format_) or not output.numel():
            raise UsageError(
                f"it gives {output.dtype} of shape {tuple(output.shape)}, which can't be read as floats of "
                f"{self.format or 'NC, NLC or NCHW'}"
            )
        if format_ != "NLC":
            return Tokens.of(output, format_)
        if self.prefix >= output.shape[1]:
            raise UsageError(f"it gives {output.shape[1]} tokens, and prefix={self.prefix} leaves none")
        return Tokens.of(output, "NLC", self.prefix)


def survey(network: nn.Module, pair: torch.Tensor, layout: Layout) -> dict[str, str]:
    """Every module by its name, then ``last``, the network itself; with why it can't be a layer, or "".

    A layer runs once, gives one tensor that ``layout`` can read, and has one row an input that depends on that input
    alone: told by two inputs together and the second one alone.
    """
    together, alone = _watch(network, pair, layout), _watch(network, pair[1:], layout)
    return {layer: together[layer].fault or _compare(together[layer], alone[layer]) for layer in together}


@dataclass(slots=True)
class _Seen:
    """What one module gave for a batch: its fault or its shape, and some values of the last row."""

    runs: int = 0
    fault: str = "it isn't run as a module in the forward pass"
    shape: tuple[int, ...] = ()
    sample: torch.Tensor | None = None


def _watch(network: nn.Module, batch: torch.Tensor, layout: Layout) -> dict[str, _Seen]:
    names = [name for name, _ in network.named_modules() if name not in ("", LAST)]
    seen = {layer: _Seen() for layer in (*names, LAST)}

    def recorder(layer: str) -> Any:
        def record(module: object, args: object, output: Any) -> None:
            found = seen[layer]
            found.runs += 1
            found.fault = f"it is run {found.runs} times in one forward pass" if found.runs > 1 else ""
            if torch.is_tensor(output):
                found.shape = tuple(output.shape)
            if not found.fault:
                try:
                    values = layout.tokens(output).values
                except UsageError as error:
                    found.fault = error.message
                else:  # a copy: what is next may work in place
                    row = values[-1:].flatten()
                    found.sample = row[:: max(len(row) // _COMPARED, 1)].to(torch.float64, copy=True)

        return record

    with ExitStack() as hooks, torch.inference_mode():
        for layer in seen:
            module = network if layer == LAST else network.get_submodule(layer)
            hooks.callback(module.register_forward_hook(recorder(layer)).remove)
        network(batch.clone())
    return seen


def _compare(together: _Seen, alone: _Seen) -> str:
    if (*together.shape[:1], *alone.shape[:1]) != (2, 1) or together.shape[1:] != alone.shape[1:]:
        return f"it gives {together.shape} for 2 inputs and {alone.shape} for 1, and not a row an input"
    if together.sample is None or alone.sample is None or not _close(together.sample, alone.sample):
        return "it gives other values for an input when another is in the batch, or by chance"
    return ""


def _close(first: torch.Tensor, second: torch.Tensor) -> bool:
    # Kernels for one and for two inputs round differently: what is looked for is another input's influence.
    scale = float(first.nan_to_num(posinf=0.0, neginf=0.0).abs().max()) if len(first) else 0.0
    return torch.allclose(first, second, rtol=1e-3, atol=1e-3 * scale, equal_nan=True)


def _describe(output: Any) -> str:
    if isinstance(output, Mapping):
        return f"{type(output).__name__} with {', '.join(map(str, output))}"
    if isinstance(output, (tuple, list)):
        parts = ", ".join(str(tuple(part.shape)) if torch.is_tensor(part) else type(part).__name__ for part in output)
        return f"{type(output).__name__} of {len(output)}: {parts}"
    return type(output).__name__
