"""Path templates: what a folder tree says about its files.

``{site}/fold{fold}/grade{label:int}/{patient_id}/{modality}/*.png``: a field takes one part of a path, ``*`` and ``?``
match within a part, ``**`` any number of parts. A field that stands twice must say the same twice. A type says what a
field looks like; that of ``label`` is also how labels come back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self

from featstore.errors import UsageError, did_you_mean
from featstore.keys import fill as fill

#: Fields that are columns of their own; every other becomes an attribute.
FIELDS = ("patient_id", "modality", "label", "site", "visit_id", "acquired_at", "split")
LabelType = Literal["int", "float", "str"]
_PATTERNS = {"str": r"[^/]+?", "int": r"[+-]?\d+", "float": r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"}
_PIECE = re.compile(r"\{(?P<field>[^{}]*)\}|(?P<any>\*\*/?)|(?P<star>\*)|(?P<one>\?)|(?P<text>[^{}*?]+)|(?P<bad>.)")


@dataclass(frozen=True, slots=True)
class Layout:
    """A compiled path template.

    >>> layout = Layout.parse("{site}/grade{label:int}/{patient_id}/{modality}/*.png")
    >>> layout.match("JM/grade2/007/A/007_a_slice_1.png")
    {'site': 'JM', 'label': '2', 'patient_id': '007', 'modality': 'A'}
    >>> layout.match("JM/gradeX/007/A/1.png") is None
    True
    """

    text: str
    pattern: re.Pattern[str]
    fields: tuple[str, ...]
    label_type: LabelType | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Compile a template.

        Raises:
            UsageError: braces that don't match, a bad field name or an unknown type.
        """
        regex, fields, types = [], [], {}
        for piece in _PIECE.finditer(text.strip("/")):
            if (field := piece["field"]) is not None:
                name, _, kind = field.partition(":")
                if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                    raise UsageError(f"The layout {text!r} has a bad field {{{field}}}: use {{name}} or {{name:int}}.")
                kind = kind or "str"
                if kind not in _PATTERNS:
                    raise UsageError(
                        f"The layout {text!r} gives {{{name}}} the type {kind!r}.{did_you_mean(kind, _PATTERNS)}",
                        hint=f"one of: {', '.join(_PATTERNS)}",
                    )
                if name in types:
                    regex.append(f"(?P={name})")
                else:
                    fields.append(name)
                    types[name] = kind
                    regex.append(f"(?P<{name}>{_PATTERNS[kind]})")
            elif piece["any"]:
                regex.append(r"(?:.*/)?" if piece["any"] == "**/" else r".*")
            elif piece["star"]:
                regex.append(r"[^/]*")
            elif piece["one"]:
                regex.append(r"[^/]")
            elif piece["text"]:
                regex.append(re.escape(piece["text"]))
            else:
                raise UsageError(f"The layout {text!r} has a brace without its partner.")
        label: LabelType | None = types.get("label")  # type: ignore[assignment]
        return cls(text, re.compile("".join(regex), re.DOTALL), tuple(fields), label)

    def match(self, path: str) -> dict[str, str] | None:
        """The fields of a POSIX path below the root, or None where the path isn't of this layout."""
        found = self.pattern.fullmatch(path)
        return found.groupdict() if found else None
