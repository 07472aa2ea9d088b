"""Names and the grammars that people type."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.errors import UsageError
from featstore.keys import InputRef, Ref, check_name, parse_call, split_fragment

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}[A-Za-z0-9_-]", fullmatch=True)
MODALITIES = st.from_regex(r"[A-Za-z0-9 _+-]{1,8}", fullmatch=True)


class TestNames:
    @given(NAMES)
    def test_good(self, name: str) -> None:
        assert check_name(name, "table") == name

    @pytest.mark.parametrize(
        "name",
        [
            "",
            ".x",
            "_x",
            "-x",
            "a/b",
            "a:b",
            "a@v1",
            "a=b",
            "a#b",
            "a b",
            "a\n",
            "x.",
            "é",
            "a" * 129,
            "..",
            "a\\b",
            "٣",
        ],
    )
    def test_bad(self, name: str) -> None:
        with pytest.raises(UsageError, match="can't be the name of a table"):
            check_name(name, "table")

    def test_says_the_next_step(self) -> None:
        with pytest.raises(UsageError, match="next: --name other"):
            check_name("a b", "table", hint="--name other")


class TestRef:
    @given(NAMES, st.none() | st.integers(1, 10**6))
    def test_survives_writing_and_parsing(self, name: str, version: int | None) -> None:
        ref = Ref(name, version)
        assert Ref.parse(str(ref)) == ref

    @pytest.mark.parametrize(
        "text", ["", "@v1", "r18@", "r18@2", "r18@v0", "r18@v01", "r18@v-1", "r18@v1@v2", "r18@v1 "]
    )
    def test_bad(self, text: str) -> None:
        with pytest.raises(UsageError, match="isn't a NAME or NAME@vK"):
            Ref.parse(text)


class TestInputRef:
    @given(NAMES, NAMES, st.none() | st.integers(1, 99), st.none() | MODALITIES, st.none() | NAMES)
    def test_survives_writing_and_parsing(
        self, alias: str, name: str, version: int | None, modality: str | None, agg: str | None
    ) -> None:
        ref = InputRef(alias, Ref(name, version), modality, agg)
        assert InputRef.parse(str(ref)) == ref

    @pytest.mark.parametrize(
        ("text", "alias"), [("r18", "r18"), ("r18@v2:mean", "r18"), ("r18/A", "r18_A"), ("x=r18/A:mean", "x")]
    )
    def test_alias(self, text: str, alias: str) -> None:
        assert InputRef.parse(text).alias == alias

    @pytest.mark.parametrize("text", ["", "=r18", "a=", "r18/", "r18:", "r18/A/B", "a=b=c", "r18:mean:max", "a b=r18"])
    def test_bad(self, text: str) -> None:
        with pytest.raises(UsageError):
            InputRef.parse(text)

    def test_a_modality_that_is_no_name_needs_an_alias(self) -> None:
        with pytest.raises(UsageError, match="'r18_T1 post'"):
            InputRef.parse("r18/T1 post:mean")
        assert InputRef.parse("t1=r18/T1 post:mean").modality == "T1 post"


class TestCalls:
    @pytest.mark.parametrize(
        ("text", "call"),
        [
            ("mean", ("mean", ())),
            ("gem(3)", ("gem", (3.0,))),
            (" gem( 1e1 , -2 ) ", ("gem", (10.0, -2.0))),
            ("gem()", ("gem", ())),
        ],
    )
    def test_good(self, text: str, call: tuple[str, tuple[float, ...]]) -> None:
        assert parse_call(text) == call

    @pytest.mark.parametrize(
        "text", ["", "gem(", "gem)3(", "gem(3)(4)", "3", "a b", "gem(p=3)", "gem(nan)", "gem(inf)", "gem(x)"]
    )
    def test_bad(self, text: str) -> None:
        with pytest.raises(UsageError):
            parse_call(text)


class TestFragments:
    @pytest.mark.parametrize(
        ("uri", "parts"),
        [
            ("a/scan.nii.gz#axis=2&slice=17", ("a/scan.nii.gz", "axis=2&slice=17")),
            ("file.h5#/valid/42", ("file.h5", "/valid/42")),
            ("case #3/x.png", ("case #3/x.png", None)),
            ("#1.png", ("#1.png", None)),
            ("#/x", ("#/x", None)),
            ("a#b#slice=1", ("a#b", "slice=1")),
            ("plain.png", ("plain.png", None)),
            ("a#1=2/x.png", ("a#1=2/x.png", None)),
        ],
    )
    def test_cases(self, uri: str, parts: tuple[str, str | None]) -> None:
        assert split_fragment(uri) == parts

    @given(st.text("ab/#. ", min_size=1).filter(lambda s: split_fragment(s)[1] is None), st.integers(0, 999))
    def test_what_is_joined_is_split_again(self, path: str, n: int) -> None:
        assert split_fragment(f"{path}#slice={n}") == (path, f"slice={n}")
