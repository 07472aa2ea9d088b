"""What the inner modules of a network give while it runs: for backbones that offer layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from featstore.errors import UsageError

if TYPE_CHECKING:
    import torch


@contextmanager
def capture(network: torch.nn.Module, modules: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
    """Record the outputs of some inner modules while the block runs the network once.

    ::

        with capture(network, {"3": "blocks.3"}) as outputs:
            last = network(batch)
        tokens = outputs["3"]

    Tensors are copied at once, also those in tuples, lists and mappings, which come as tuples and dicts: what comes
    next may work in place, as ReLUs do. Read ``outputs`` after the block: when it ends, all of them are there.

    Args:
        modules: a name of your own → the module's, as ``network.named_modules()`` has it.

    Raises:
        UsageError: no such module; when the block ends, one that didn't run in it, or ran more than once.
    """
    found: dict[str, Any] = {}
    runs: dict[str, int] = dict.fromkeys(modules, 0)

    def recorder(name: str) -> Any:
        def record(module: object, args: object, output: Any) -> None:
            runs[name] += 1
            found[name] = _copy(output)

        return record

    with ExitStack() as hooks:
        for name, path in modules.items():
            try:
                module = network.get_submodule(path)
            except AttributeError:
                raise UsageError(f"The network has no module {path!r}.") from None
            hooks.callback(module.register_forward_hook(recorder(name)).remove)
        yield found
    for name, times in runs.items():
        if times != 1:
            raise UsageError(
                f"The layer {name} is run {times} times in one forward pass: what it gives can't be told apart."
                if times
                else f"The layer {name} isn't run in the forward pass as a module: it has no output to take."
            )


def _copy(output: Any) -> Any:
    import torch

    if torch.is_tensor(output):
        return output.clone()
    if isinstance(output, Mapping):
        return {key: _copy(value) for key, value in output.items()}
    return tuple(_copy(value) for value in output) if isinstance(output, (tuple, list)) else output
