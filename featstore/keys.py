"""Names, references and the ``--input`` grammar: the words that people type.

Names match ``[A-Za-z0-9][A-Za-z0-9_.-]*`` and are unique ignoring case, so that a store made on Linux can be
unpacked on a Mac or on Windows. ``/ : @ = #`` belong to the grammars below and never to a name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from featstore.errors import UsageError, did_you_mean

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_VERSIONED = re.compile(r"(?P<name>[^@]+)(?:@v(?P<version>[1-9][0-9]*))?")
_INPUT = re.compile(r"(?:(?P<alias>[^=]+)=)?(?P<ref>[^/:=]+)(?:/(?P<modality>[^/:]+))?(?::(?P<agg>[^:]+))?")

#: The splits of a scheme of folds: ``fold0``, ….
FOLD = re.compile(r"fold[0-9]+")
#: Columns that say where the vector of a row is, and nothing of the sample.
PLACES = ("row", "partition", "feature_path", "num_slices")
#: What the columns of an exported feature set are called: the samples' own, the vectors and labels, the places.
EXPORT_NAMES = (
    "sample_key", "patient_id", "visit_id", "modality", "split", "site", "label", "acquired_at", "features", "labels",
    "file", *PLACES,
)  # fmt: skip
_RESERVED = re.compile(rf"(?:attribute_)*(?:{'|'.join(EXPORT_NAMES)})")


def check_name(name: str, what: str, *, hint: str = "") -> str:
    """Return ``name``, or raise :class:`UsageError` where it can't be a name.

    >>> check_name("a_r18", "feature set")
    'a_r18'
    """
    if not _NAME.fullmatch(name) or len(name) > 128 or name.endswith("."):
        raise UsageError(
            f"{name!r} can't be the name of a {what}: a name starts with a letter of a-z or A-Z or a digit, goes on "
            "with these, '_', '-' and '.', doesn't end with '.', and has at most 128 characters.",
            hint=hint,
        )
    return name


@dataclass(frozen=True, slots=True)
class Ref:
    """``NAME`` or ``NAME@vK``: a feature set or a table, at its latest version or at a given one.

    >>> Ref.parse("r18@v2")
    Ref(name='r18', version=2)
    >>> str(Ref.parse("r18"))
    'r18'
    """

    name: str
    version: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        match = _VERSIONED.fullmatch(text)
        if not match or not _NAME.fullmatch(match["name"]):
            raise UsageError(f"{text!r} isn't a NAME or NAME@vK, such as r18 or r18@v2.")
        return cls(match["name"], int(match["version"]) if match["version"] else None)

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@v{self.version}"


@dataclass(frozen=True, slots=True)
class InputRef:
    """``[ALIAS=]NAME[@vK][/MODALITY][:AGG]``: one input of a training table.

    >>> InputRef.parse("p=r18@v2/P:mean")
    InputRef(alias='p', ref=Ref(name='r18', version=2), modality='P', agg='mean')
    >>> InputRef.parse("p_r18.mean:gem(3)").alias
    'p_r18.mean'
    >>> InputRef.parse("r18/A:mean").alias
    'r18_A'
    """

    alias: str
    ref: Ref
    modality: str | None = None
    agg: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        match = _INPUT.fullmatch(text)
        if not match:
            raise UsageError(
                f"{text!r} isn't an input. The form is [ALIAS=]NAME[@vK][/MODALITY][:AGG], "
                "such as a_r18:mean or p=r18@v2/P:mean."
            )
        ref = Ref.parse(match["ref"])
        modality = match["modality"]
        alias = match["alias"] or (f"{ref.name}_{modality}" if modality else ref.name)
        return cls(check_name(alias, "table column"), ref, modality, match["agg"])

    def __str__(self) -> str:
        text = str(self.ref)
        if self.modality:
            text += f"/{self.modality}"
        if self.agg:
            text += f":{self.agg}"
        return f"{self.alias}={text}"


def parse_call(text: str) -> tuple[str, tuple[float, ...]]:
    """Split a pooler with arguments: ``gem(3)`` → ``("gem", (3.0,))``, ``mean`` → ``("mean", ())``.

    >>> parse_call("gem(2.5)")
    ('gem', (2.5,))
    >>> parse_call("mean")
    ('mean', ())
    """
    name, arguments = parse_words(text)
    if any(isinstance(a, str) for a in arguments):
        raise UsageError(f"The arguments of {text!r} must be numbers, such as gem(3).")
    return name, tuple(a for a in arguments if not isinstance(a, str))


def parse_words(text: str) -> tuple[str, tuple[float | str, ...]]:
    """Split a step or fuser with arguments, numbers or words.

    >>> parse_words("impute(median)"), parse_words("pca(0.95)"), parse_words("l2")
    (('impute', ('median',)), ('pca', (0.95,)), ('l2', ()))

    Raises:
        UsageError: it is neither NAME nor NAME(…), or an argument is neither a finite number nor a word.
    """
    match = re.fullmatch(r"(?P<name>[A-Za-z][A-Za-z0-9_-]*)(?:\((?P<args>[^()]*)\))?", text.strip())
    if not match:
        raise UsageError(f"{text!r} isn't NAME or NAME(ARGUMENT, …), such as standardize or pca(32).")
    return match["name"], tuple(_word(a.strip(), text) for a in (match["args"] or "").split(",") if a.strip())


def _word(argument: str, text: str) -> float | str:
    try:
        number = float(argument)
    except ValueError:
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", argument):
            return argument
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"The arguments of {text!r} must be numbers or words, such as impute(median) or pca(32).")
    return number


def fill(template: str, fields: Mapping[str, str], flag: str) -> str:
    """Put fields into a template.

    >>> fill("{site}-{patient_id}", {"site": "JM", "patient_id": "007"}, "--patient-id")
    'JM-007'
    >>> fill("{patient_id|visit_id}", {"visit_id": "1.2.840"}, "--patient-id")  # the first that is there
    '1.2.840'

    Raises:
        UsageError: it asks for a field that isn't there.
    """

    def value(match: re.Match[str]) -> str:
        names = match[1].split("|")
        name = names[-1]
        for each in names:
            if fields.get(each) or (each == name and name in fields):
                return fields[each]
        raise UsageError(
            f"{flag} {template!r} asks for {{{name}}}, which isn't there.{did_you_mean(name, fields)}",
            hint=f"fields: {', '.join(sorted(fields))}",
        )

    return re.sub(r"\{([^{}]*)\}", value, template)


def attribute_column(attribute: str) -> str:
    """What an attribute's column is called in an export: its own name, unless that means something else there.

    >>> [attribute_column(name) for name in ("slice", "row", "attribute_row")]
    ['slice', 'attribute_row', 'attribute_attribute_row']
    """
    return f"attribute_{attribute}" if _RESERVED.fullmatch(attribute) else attribute


def attribute_name(column: str) -> str:
    """The attribute that :func:`attribute_column` called so.

    >>> [attribute_name(name) for name in ("slice", "attribute_row", "attribute_attribute_row", "attribute_x")]
    ['slice', 'row', 'attribute_row', 'attribute_x']
    """
    return column.removeprefix("attribute_") if _RESERVED.fullmatch(column) else column


def natural_order(key: str) -> tuple[str, int, str]:
    """What sample keys are sorted by, wherever rows have an order: slice 2 comes before slice 10.

    The last number of a key counts as a number, the rest as text; :func:`featstore.catalog.order.natural` is the same
    in SQL.

    >>> sorted(["a/s_10.png", "a/s_2.png", "a/x.h5#/train/0"], key=natural_order)
    ['a/s_2.png', 'a/s_10.png', 'a/x.h5#/train/0']
    """
    last = re.search(r"0*([0-9]+)[^0-9]*$", key)
    return (re.sub(r"[0-9]+[^0-9]*$", "", key), len(last[1]), key) if last else (key, 0, key)


def split_fragment(uri: str) -> tuple[str, str | None]:
    """Split ``file.h5#/valid/42`` into the file and the part of it; no ``#`` means the whole file.

    Only the last ``#`` counts, and only when what follows is a fragment of ours (``key=value`` or ``/path``):
    a folder may well be called ``case #3``.

    >>> split_fragment("a/scan.nii.gz#axis=2&slice=17")
    ('a/scan.nii.gz', 'axis=2&slice=17')
    >>> split_fragment("case #3/x.png")
    ('case #3/x.png', None)
    """
    head, mark, tail = uri.rpartition("#")
    if mark and head and (tail.startswith("/") or re.match(r"[a-z]+=[^/]*$", tail)):
        return head, tail
    return uri, None
