"""The laws of backbones: what extracting relies on."""

from __future__ import annotations

import copy
import io
import json
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from featstore.errors import FeatstoreError, InputError, UsageError
from featstore.spec import Backbone, Tokens
from featstore.testing import inputs as samples
from featstore.testing.case import FEW, BackboneCase
from featstore.testing.laws import Broken, Laws, close, refusal, require, worst

LAWS = Laws[BackboneCase]()


@LAWS.gate(FeatstoreError)
def loads(case: BackboneCase) -> str:
    """``spec.load(request)`` gives a Backbone with a transform, an input shape and layers."""
    backbone = case.load()
    require(isinstance(backbone, Backbone), f"load gave {type(backbone).__name__}, which is no featstore.Backbone")
    for name in ("transform", "input_shape"):
        require(hasattr(backbone, name), f"it has no {name}")
    require(callable(backbone.transform), "its transform can't be called")
    shape = backbone.input_shape
    whole = isinstance(shape, tuple) and bool(shape) and all(type(side) is int and side > 0 for side in shape)
    require(whole, f"input_shape is {shape!r}, and must be a tuple of whole numbers above 0")
    case.take(backbone)
    return f"input_shape {shape}, {len(backbone.layers)} layers"


@LAWS.gate()
def names_its_layers(case: BackboneCase) -> str:
    """``layers`` are unique names, at least one, and so are ``facets``, if there are any."""
    for what, names in (("layers", case.backbone.layers), ("facets", case.backbone.facets)):
        require(not isinstance(names, str), f"{what} is one text, {names!r}, and must be a list or tuple of names")
        proper = all(isinstance(name, str) and name.strip() == name and name for name in names)
        require(proper, f"{what} has what is no name: {list(names)}")
        require(len(set(names)) == len(names), f"{what} has a name twice: {list(names)}")
    require(bool(case.backbone.layers), "there is no layer")
    require(
        not any("." in facet for facet in case.backbone.facets), "a facet has a dot in it: LAYER.FACET is ambiguous"
    )
    facets = f"; facets {', '.join(case.backbone.facets)}" if case.backbone.facets else ""
    return f"{', '.join(case.backbone.layers)}{facets}"


@LAWS.law
def tells_its_preprocessing(case: BackboneCase) -> str:
    """``preprocessing`` is JSON: it is part of the fingerprint."""
    settings = dict(case.backbone.preprocessing)
    try:
        text = json.dumps(settings, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise Broken(f"it isn't JSON: {error}") from None
    require(all(isinstance(key, str) for key in settings), "its keys must be texts")
    return f"{len(settings)} settings" if len(text) > 60 else text


@LAWS.gate()
def transforms_its_inputs(case: BackboneCase) -> str:
    """``transform`` gives float32 of ``input_shape``, finite, and raises InputError for what it can't take."""
    case.transform_all()
    refused = f", {len(case.refused)} kinds refused" if case.refused else ""
    return f"{len(case.inputs)} inputs{refused}"


@LAWS.law
def leaves_its_inputs_as_they_are(case: BackboneCase) -> str:
    """``transform`` changes no input, and gives the same for it each time."""
    for value, array in zip(case.inputs, case.arrays, strict=True):
        given = copy.deepcopy(value)
        before = pickle.dumps(given)
        again = np.asarray(case.backbone.transform(given))
        require(pickle.dumps(given) == before, f"it wrote into its input, {samples.describe(value)}")
        require(bool((again == array).all()), f"it gave something else the second time for {samples.describe(value)}")
    return f"{len(case.inputs)} inputs"


@LAWS.law
def refuses_bad_inputs(case: BackboneCase) -> str:
    """``transform`` raises InputError for another type, NaN, infinities and wrong shapes: it makes no garbage of them.

    Where decoded inputs may hold such values in your field, refuse them all the same: a vector of them looks like any
    other. Only what they are replaced by, said in a setting, makes them meant.
    """
    found = samples.bad(case.inputs[0])
    for name, value in found.items():
        how, _ = refusal(lambda value=value: case.backbone.transform(value), InputError)  # type: ignore[misc]
        require(how != "accepted", f"{name} is accepted; raise InputError")
        require(how == "refused", f"{name} gives {how}; raise InputError, which says what is wrong with the input")
    return ", ".join(found)


@LAWS.law
def can_be_sent_to_workers(case: BackboneCase) -> str:
    """``transform`` can be pickled, without the network, and is the same function then."""
    buffer = io.BytesIO()
    _Pickler(buffer).dump(case.backbone.transform)
    again = pickle.loads(buffer.getvalue())  # noqa: S301 - just made
    for value, array in zip(case.inputs[:FEW], case.arrays, strict=False):
        require(bool((np.asarray(again(value)) == array).all()), "unpickled, it gives something else")
    return f"{buffer.tell():,} bytes"


@LAWS.law
def is_the_same_in_workers(case: BackboneCase) -> str:
    """Loader workers, spawned as on every platform, load the plugin anew and transform as this process does."""
    found = case.transform_in_workers()
    return worst([close(found, np.stack(case.arrays), case.tolerance, "what workers make of the inputs")])


@LAWS.law
def declares_its_weights(case: BackboneCase) -> str:
    """``module`` is None, or holds every network of the backbone: no other weights are in the fingerprint."""
    import torch

    module = case.backbone.module
    if module is not None:
        require(isinstance(module, torch.nn.Module), f"module is {type(module).__name__}, not a torch.nn.Module")
    known = set() if module is None else {id(t) for t in [*module.parameters(), *module.buffers()]}
    attributes = {**vars(case.backbone)} if hasattr(case.backbone, "__dict__") else {}
    for name, value in attributes.items():
        networks = value if isinstance(value, (list, tuple)) else value.values() if isinstance(value, dict) else [value]
        for network in networks:
            if isinstance(network, torch.nn.Module):
                tensors = [*network.parameters(), *network.buffers()]
                require(
                    all(id(tensor) in known for tensor in tensors),
                    f"the attribute {name!r} holds a network with weights that aren't in module: they would be neither "
                    "in the fingerprint nor on the device",
                )
    return "no network" if module is None else f"{sum(p.numel() for p in module.parameters()):,} parameters"


@LAWS.gate()
def gives_tokens(case: BackboneCase) -> str:
    """``forward`` gives one Tokens a layer: finite floats (N, L, D), and prefix + H·W = L where there is a grid."""
    tokens = case.forward(case.batch, [case.default])
    values = _checked(tokens, [case.default], len(case.batch))[case.default]
    case.reference = values
    grid = tokens[case.default].grid
    return f"{case.default}: {values.shape[1]} × {values.shape[2]}, prefix {tokens[case.default].prefix}, grid {grid}"


@LAWS.law
def gives_every_layer_in_one_pass(case: BackboneCase) -> str:
    """All layers in one call of ``forward`` are what each of them is in a call of its own."""
    return _one_pass(case, list(case.backbone.layers))


@LAWS.law
def gives_facets(case: BackboneCase) -> str:
    """``LAYER.FACET`` gives tokens, the same ones beside others as alone, for numbered layers (else the default)."""
    blocks = [layer for layer in case.backbone.layers if layer.isdecimal()] or [case.default]
    if not case.backbone.facets:
        return "it has none"
    return _one_pass(
        case, [f"{b}.{facet}" for b in dict.fromkeys((blocks[0], blocks[-1])) for facet in case.backbone.facets]
    )


@LAWS.law
def refuses_unknown_layers(case: BackboneCase) -> str:
    """``forward`` raises UsageError for a layer or facet that there isn't."""
    for name in ("no-such-layer", f"{case.default}.no-such-facet"):
        how, _ = refusal(lambda name=name: case.forward(case.batch[:1], [name]), UsageError)  # type: ignore[misc]
        require(how != "accepted", f"{name!r} is accepted; raise UsageError")
        require(how == "refused", f"{name!r} gives {how}; raise UsageError")
    return "UsageError"


@LAWS.law
def tells_inputs_apart(case: BackboneCase) -> str:
    """Different inputs give different vectors."""
    flat = case.reference.reshape(len(case.reference), -1)
    distinct = len(np.unique(flat, axis=0))
    require(distinct > 1, f"all {len(flat)} test inputs give one vector")
    return f"{distinct} of {len(flat)} differ"


@LAWS.law
def is_deterministic(case: BackboneCase) -> str:
    """The same batch gives the same values again: no dropout, no noise."""
    again = case.values(case.batch)
    return worst([close(again, case.reference, case.tolerance, "the second time")])


@LAWS.law
def leaves_its_batch_as_it_is(case: BackboneCase) -> str:
    """``forward`` doesn't write into the batch: out of memory, it gets parts of it again."""
    import torch

    batch = torch.from_numpy(case.batch[:FEW].copy())
    if batch.ndim == 4:
        batch = batch.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        case.backbone.forward(batch, [case.default])
    require(bool((batch.numpy() == case.batch[:FEW]).all()), "the batch has changed")
    return "unchanged"


@LAWS.law
def keeps_order(case: BackboneCase) -> str:
    """Row i belongs to input i: another order of inputs gives the same rows in that order."""
    order = np.random.default_rng(0).permutation(len(case.batch))  # one that no reversal or rotation gives back
    mixed = case.values(np.ascontiguousarray(case.batch[order]))
    return worst([close(mixed, case.reference[order], case.tolerance, "the batch in another order")])


@LAWS.law
def looks_at_each_input_alone(case: BackboneCase) -> str:
    """An input's values don't depend on what else is in the batch, nor on its size: alone, they are the same."""
    apart = []
    for row in range(min(FEW, len(case.batch))):
        alone = case.values(case.batch[row : row + 1])
        apart.append(close(alone, case.reference[row : row + 1], case.tolerance, f"input {row}, alone and in a batch"))
    return worst(apart)


@LAWS.law
def makes_up_no_rows(case: BackboneCase) -> str:
    """An empty batch, which is never sent, gives (0, L, D) or any error: what gives rows for it, invents them."""
    how, tokens = refusal(lambda: case.forward(case.batch[:0], [case.default]), Exception)
    if how != "accepted":
        return "refused"
    shape = tuple(tokens[case.default].values.shape)
    require(shape == (0, *case.reference.shape[1:]), f"no input gives values of shape {shape}")
    return f"{shape}"


@LAWS.law
def loads_the_same_again(case: BackboneCase) -> str:
    """Loaded twice, it has the same weights, settings and values: no part is random beyond the request's seed."""
    from featstore.extract.network import weights_digest

    again = case.load_under_another_random_state()
    _same_settings(again, case)
    same = weights_digest(again.module) == weights_digest(case.backbone.module)
    require(same, "the weights differ: some are initialized at random, without the request's seed")
    found = case.values(case.batch[:FEW], again)
    return worst([close(found, case.reference[:FEW], case.tolerance, "loaded again")])


@LAWS.law
def loads_the_same_in_a_new_process(case: BackboneCase) -> str:
    """Another process, with another hash seed, loads the same weights and settings, and gives the same values."""
    from featstore.extract.network import weights_digest

    child = case.child()
    if child is None:
        return f"not tried: no plugin registers {case.spec.name}"
    require("error" not in child, str(child.get("error")))
    for name, here in case.facts(case.backbone).items():
        require(child["facts"][name] == here, f"{name} is {child['facts'][name]} there, and {here} here")
    same = child["weights"] == weights_digest(case.backbone.module)
    require(same, "the weights differ: some are initialized at random, without the request's seed")
    return worst([close(child["values"], case.reference[:FEW], case.tolerance, "in another process")])


@LAWS.law
def costs_nothing_to_list(case: BackboneCase) -> str:
    """Importing an installed plugin imports neither torch nor a model library: every command imports every plugin."""
    child = case.child()
    if child is None or child.get("imported") is None:
        return "not tried: it isn't an installed plugin's"
    heavy = child["imported"]
    require(not heavy, f"importing the plugin imports {', '.join(heavy)}; import them inside load")
    return f"{child['seconds']:.2f} s"


@LAWS.law
def masks_by_the_same_geometry(case: BackboneCase) -> str:
    """``transform.mask``, where there is one, moves a mask as ``transform`` moves its image, and gives 0…1."""
    if not hasattr(case.backbone.transform, "mask"):
        return "it has no masks"
    shown, mask = _seen(case, slice(10, 35), slice(20, 60))
    lit = shown > shown.max() / 2
    overlap = (lit & (mask > 0.5)).sum() / max((lit | (mask > 0.5)).sum(), 1)
    require(overlap > 0.6, f"a bright square and its mask overlap by {overlap:.0%} only")
    # A small one, not in the middle: its own size doesn't hide that it is moved, or turned round.
    shown, mask = _seen(case, slice(15, 23), slice(24, 34))
    apart = float(np.linalg.norm(_centre(shown) - _centre(mask)))
    require(apart < 1.5, f"the mask of a small spot is {apart:.1f} pixels away from it")
    return f"a bright square and its mask overlap by {overlap:.0%}; a small spot is {apart:.1f} pixels away"


# -------------------------------------------------------------------------------------------------- helpers
class _Pickler(pickle.Pickler):
    """Refuses networks: a worker would get a copy of each."""

    def reducer_override(self, value: Any) -> Any:
        import torch

        if isinstance(value, torch.nn.Module):
            raise Broken(f"the transform carries a network along ({type(value).__name__}), to every worker")
        return NotImplemented


def _seen(case: BackboneCase, rows: slice, columns: slice) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """How a transform shows a bright spot, told by the image without it, and what becomes of the spot's mask."""
    transform: Any = case.backbone.transform
    inside = np.zeros((60, 80), np.uint8)
    inside[rows, columns] = 1
    dark = np.full(inside.shape, 100, np.uint8)
    dark[0, 0], dark[-1, -1] = 0, 255  # with and without the spot, the values have one range
    bright = np.where(inside, np.uint8(255), dark)
    try:
        images = [np.asarray(transform(image)) for image in (bright, dark)]
    except InputError:
        channels = case.backbone.input_shape[0]
        images = [np.asarray(transform(np.repeat(image[:, :, None], channels, axis=2))) for image in (bright, dark)]
    mask = np.asarray(transform.mask(inside, size=inside.shape, labels=None))
    require(mask.shape == images[0].shape[-2:], f"the mask became {mask.shape}, and the image {images[0].shape}")
    require(bool(((mask >= 0) & (mask <= 1)).all()), f"the mask's values go from {mask.min():g} to {mask.max():g}")
    return np.abs(images[0] - images[1]).reshape(-1, *mask.shape).mean(axis=0), mask


def _centre(weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(y, x), each pixel counted by its weight."""
    found: np.ndarray[Any, Any] = (np.indices(weights.shape) * weights).sum(axis=(1, 2)) / weights.sum()
    return found


def _one_pass(case: BackboneCase, layers: list[str]) -> str:
    batch = case.batch[:2]
    together = _checked(case.forward(batch, layers), layers, len(batch))
    apart = []
    for layer in dict.fromkeys((layers[0], layers[len(layers) // 2], layers[-1])):
        alone = _checked(case.forward(batch, [layer]), [layer], len(batch))[layer]
        apart.append(close(alone, together[layer], case.tolerance, f"{layer}, alone and with the others"))
    return f"{len(layers)} in one pass, {worst(apart)}"


def _checked(found: Mapping[str, Tokens], layers: Sequence[str], rows: int) -> dict[str, np.ndarray[Any, Any]]:
    """The values of each layer, float32, if they are what tokens must be."""
    import torch

    require(set(found) == set(layers), f"asked for {', '.join(layers)}, forward gave {', '.join(found) or 'nothing'}")
    checked = {}
    for layer, tokens in found.items():
        require(isinstance(tokens, Tokens), f"{layer} is {type(tokens).__name__}, and must be featstore.Tokens")
        values = tokens.values
        require(isinstance(values, torch.Tensor), f"{layer}: values is {type(values).__name__}, and must be a tensor")
        require(values.is_floating_point(), f"{layer}: values are {values.dtype}, and must be floats")
        shape = tuple(values.shape)
        require(len(shape) == 3 and shape[0] == rows, f"{layer}: {rows} inputs gave {shape}; it must be (N, L, D)")
        require(0 not in shape, f"{layer}: values of shape {shape} are empty")
        prefix, grid = tokens.prefix, tokens.grid
        require(type(prefix) is int and 0 <= prefix <= shape[1], f"{layer}: prefix {prefix} of {shape[1]} tokens")
        if grid is not None:
            fits = len(grid) == 2 and prefix + grid[0] * grid[1] == shape[1]
            require(fits, f"{layer}: prefix {prefix} and grid {tuple(grid)} don't make {shape[1]} tokens")
        checked[layer] = values.float().numpy().copy()
        bad = int((~np.isfinite(checked[layer]).reshape(rows, -1).all(axis=1)).sum())
        require(not bad, f"{layer}: {bad} of {rows} inputs have values that aren't finite; raise InputError for them")
    return checked


def _same_settings(again: Backbone, case: BackboneCase) -> None:
    here = case.facts(case.backbone)
    for name, value in case.facts(again).items():
        require(value == here[name], f"{name} is {value} the second time, and {here[name]} the first")
