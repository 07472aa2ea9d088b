"""The laws of poolers: pure functions on torch tensors and NumPy arrays alike."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from featstore.errors import FeatstoreError
from featstore.spec import PoolerSpec, PoolFunction
from featstore.testing.inputs import SEED
from featstore.testing.laws import Broken, Laws, close, refusal, require, worst

ROWS, CHANNELS = 5, 6


class Geometry(NamedTuple):
    """How tokens lie: what a backbone may give."""

    prefix: int
    grid: tuple[int, int] | None
    length: int

    def __str__(self) -> str:
        return f"{self.length} tokens, prefix {self.prefix}, grid {self.grid}"


#: A ViT's, a convolution's, one with registers, a map of one position, words, one vector, class tokens alone.
TOKENS = (
    Geometry(1, (4, 4), 17), Geometry(0, (3, 5), 15), Geometry(5, (2, 2), 9), Geometry(0, (1, 1), 1),
    Geometry(0, None, 7), Geometry(1, None, 8), Geometry(0, None, 1), Geometry(2, None, 2),
)  # fmt: skip
#: Rows of one patient.
GROUPS = tuple(Geometry(0, None, length) for length in (1, 2, 3, 7, 40))


@dataclass(slots=True)
class PoolerCase:
    """A pooler with its arguments; ``taken`` are the geometries that it works on, and as what."""

    spec: PoolerSpec
    arguments: tuple[float, ...]
    tolerance: float
    pool: PoolFunction = field(init=False)
    taken: list[tuple[str, Geometry]] = field(default_factory=list)

    def values(self, shape: Geometry, *, rows: int = ROWS, seed: int = SEED) -> npt.NDArray[np.float64]:
        """Tokens of ``rows`` inputs, (rows, L, D), between 0.1 and 3: some poolers are for what comes after a ReLU."""
        drawn: npt.NDArray[np.float64] = np.random.default_rng(seed).uniform(0.1, 3, (rows, shape.length, CHANNELS))
        return drawn

    def weights(self, shape: Geometry, *, rows: int = ROWS) -> npt.NDArray[np.float64]:
        """The share of each position inside a mask: some 0, some 1, some between, none of them all 0."""
        drawn = np.random.default_rng(SEED + 1).uniform(-0.5, 1.5, (rows, shape.length - shape.prefix)).clip(0, 1)
        drawn[:, :1] = 1.0  # there may be no position at all
        return drawn

    def __call__(self, accepts: str, shape: Geometry, values: Any, weights: Any = None) -> Any:
        """Pool, as what ``accepts`` names."""
        more = {"weights": weights} if accepts == "regions" else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's on NaN and empty means: the result is judged
            return self.pool(values, prefix=shape.prefix, grid=shape.grid, **more)

    def pooled(self, accepts: str, shape: Geometry, values: Any, rows: slice = slice(None)) -> npt.NDArray[Any]:
        """Pool NumPy values, with the weights of their rows."""
        weights = self.weights(shape)[rows] if accepts == "regions" else None
        return np.asarray(self(accepts, shape, values, weights))

    def each(self) -> Iterator[tuple[str, Geometry, npt.NDArray[np.float64], npt.NDArray[Any], str]]:
        """What it accepts, the geometry, values, what it makes of them, and what to call this."""
        for accepts, shape in self.taken:
            values = self.values(shape)
            yield accepts, shape, values, self.pooled(accepts, shape, values), f"{accepts} ({shape})"


LAWS = Laws[PoolerCase]()


@LAWS.gate(FeatstoreError)
def loads(case: PoolerCase) -> str:
    """``spec.load(*arguments)`` gives a function; ``accepts`` is of tokens, groups and regions."""
    known = {"tokens", "groups", "regions"}
    accepts = case.spec.accepts
    require(isinstance(accepts, frozenset) and bool(accepts) and accepts <= known, f"accepts is {accepts!r}")
    case.pool = case.spec.load(*case.arguments)
    require(callable(case.pool), f"load gave {type(case.pool).__name__}, which can't be called")
    return " and ".join(sorted(accepts))


@LAWS.gate()
def pools_or_refuses(case: PoolerCase) -> str:
    """(N, L, D) becomes (N, D′) or (N, L′, D′), floats and finite; ValueError where a geometry can't be pooled.

    Groups become (G, D′), with one D′ for groups of any length: one row among them.
    """
    refused = []
    for accepts in sorted(case.spec.accepts):
        widths = set()
        for shape in GROUPS if accepts == "groups" else TOKENS:
            if accepts == "regions" and shape.length == shape.prefix:
                continue  # a mask is of positions
            how, result = refusal(
                lambda accepts=accepts, shape=shape: case.pooled(accepts, shape, case.values(shape)),  # type: ignore[misc]
                ValueError,
            )
            if how == "refused":
                require(accepts != "groups", f"groups of {shape.length} are refused; any number of rows must do")
                refused.append(str(shape))
                continue
            require(how == "accepted", f"{accepts} ({shape}) gives {how}; raise ValueError for what it can't pool")
            axes = (2,) if accepts == "groups" else (2, 3)
            fits = result.ndim in axes and len(result) == ROWS and result.size > 0
            require(fits, f"{accepts} ({shape}), {ROWS} of them, give {result.shape}")
            require(result.dtype.kind == "f", f"{accepts} ({shape}) give {result.dtype}")
            require(bool(np.isfinite(result).all()), f"{accepts} ({shape}) give values that aren't finite")
            widths.add(result.shape[-1])
            case.taken.append((accepts, shape))
        if accepts == "groups":
            require(len(widths) == 1, f"groups of different lengths give widths {sorted(widths)}")
    require(bool(case.taken), "every geometry is refused")
    return f"{len(case.taken)} geometries pooled, {len(refused)} refused"


@LAWS.law
def writes_nothing(case: PoolerCase) -> str:
    """Neither values nor weights are written into, and the same values give the same result again."""
    for accepts, shape, values, result, what in case.each():
        given, weights = values.copy(), case.weights(shape)
        kept = weights.copy()
        again = np.asarray(case(accepts, shape, given, weights if accepts == "regions" else None))
        require(bool((given == values).all()), f"{what}: the values have changed")
        require(bool((weights == kept).all()), f"{what}: the weights have changed")
        require(bool((again == result).all()), f"{what}: the second time, the result is another")
    return "pure"


@LAWS.law
def keeps_precision(case: PoolerCase) -> str:
    """float32 gives float32 and float64 gives float64: tables are pooled in double precision."""
    for accepts, shape in case.taken:
        for dtype in (np.float32, np.float64):
            weights = case.weights(shape).astype(dtype) if accepts == "regions" else None
            result = np.asarray(case(accepts, shape, case.values(shape).astype(dtype), weights))
            require(result.dtype == dtype, f"{accepts} ({shape}): {np.dtype(dtype)} gives {result.dtype}")
    return "float32 and float64"


@LAWS.law
def is_the_same_in_torch_and_numpy(case: PoolerCase) -> str:
    """One function for the network's tensors and a table's arrays: results agree, and are of the library given."""
    import torch

    apart = []
    for accepts, shape, values, _, what in case.each():
        single, weights = values.astype(np.float32), case.weights(shape).astype(np.float32)
        expected = np.asarray(case(accepts, shape, single, weights if accepts == "regions" else None))
        tensors = torch.from_numpy(single), torch.from_numpy(weights) if accepts == "regions" else None
        with torch.inference_mode():
            found = case(accepts, shape, *tensors)
        require(isinstance(found, torch.Tensor), f"{what}: a tensor gives {type(found).__name__}")
        apart.append(close(found.numpy(), expected, max(case.tolerance, 1e-5), f"{what}: torch and NumPy"))
    return worst(apart)


@LAWS.law
def keeps_order(case: PoolerCase) -> str:
    """Row i belongs to input i: another order of inputs gives the same rows in that order."""
    apart = []
    for accepts, shape, values, result, what in case.each():
        turned = case.pooled(accepts, shape, np.ascontiguousarray(values[::-1]), slice(None, None, -1))
        apart.append(close(turned, result[::-1], case.tolerance, f"{what}, turned round"))
    return worst(apart)


@LAWS.law
def looks_at_each_input_alone(case: PoolerCase) -> str:
    """An input's or group's result doesn't depend on the others in the batch."""
    apart = []
    for accepts, shape, values, result, what in case.each():
        for row in range(0, ROWS, 2):
            part = slice(row, row + 1)
            alone = case.pooled(accepts, shape, values[part], part)
            apart.append(close(alone, result[part], case.tolerance, f"{what}, alone and in a batch"))
    return worst(apart)


@LAWS.law
def hides_no_nan(case: PoolerCase) -> str:
    """A NaN shows in its row's result, unless its token isn't looked at, and in no other row's."""
    for accepts, shape, values, result, what in case.each():
        others = np.arange(ROWS) != 1
        for token in (*range(shape.length), None):  # None: all of the input, as failed inputs are
            holed = values.copy()
            holed[1, slice(None) if token is None else token] = np.nan
            found = case.pooled(accepts, shape, holed)
            same = found.shape == result.shape and bool((found[others] == result[others]).all())
            require(same, f"{what}: a NaN in one input changes another's result")
            ignored = token is not None and bool((found[1] == result[1]).all())
            where = "an input of NaN alone" if token is None else f"a NaN in token {token}"
            require(
                ignored or not np.isfinite(found[1]).all(),
                f"{what}: {where} gives finite values, other than without it",
            )
    return "every NaN shows"


@LAWS.law
def looks_inside_the_mask(case: PoolerCase) -> str:
    """For regions: positions of weight 0 don't matter, those of weight 1 do, and a mask of one position is enough."""
    if "regions" not in case.spec.accepts:
        return "it pools no regions"
    for accepts, shape in case.taken:
        if accepts != "regions":
            continue
        values, positions = case.values(shape), shape.length - shape.prefix
        for inside in {0, positions - 1, positions // 2}:
            weights = np.zeros((ROWS, positions))
            weights[:, inside] = 1.0
            result = np.asarray(case(accepts, shape, values, weights))
            require(bool(np.isfinite(result).all()), f"{shape}: a mask of one position gives values that aren't finite")
            outside = values * 7
            outside[:, shape.prefix + inside] = values[:, shape.prefix + inside]
            outside[:, : shape.prefix] = values[:, : shape.prefix]
            close(
                np.asarray(case(accepts, shape, outside, weights)), result, case.tolerance, f"{shape}: outside the mask"
            )
            moved = values.copy()
            moved[:, shape.prefix + inside] *= 3
            changed = not np.allclose(np.asarray(case(accepts, shape, moved, weights)), result)
            require(changed, f"{shape}: what lies inside the mask makes no difference")
    return "inside alone"


@LAWS.law
def refuses_wrong_arguments(case: PoolerCase) -> str:
    """``load`` raises UsageError (or Python's own TypeError) for arguments that it doesn't take: it ignores none."""
    how, _ = refusal(lambda: case.spec.load(*range(1, 10)), ValueError, TypeError)
    if how != "refused":
        raise Broken("nine numbers as arguments are accepted" if how == "accepted" else f"nine arguments give {how}")
    return "refused"
