"""One tree of errors, that says the next step and survives a trip between processes."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore import errors
from featstore.errors import FeatstoreError, NotFoundError, UsageError, did_you_mean

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FeatstoreError)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hint", ["", "featstore status"])
def test_survives_pickling(kind: type[FeatstoreError], hint: str) -> None:
    error = pickle.loads(pickle.dumps(kind("it broke", hint=hint)))
    assert type(error) is kind
    assert (error.message, error.hint) == ("it broke", hint)


def test_says_the_fact_then_the_next_step() -> None:
    assert str(UsageError("no such flag", hint="featstore --help")) == "no such flag\n  next: featstore --help"
    assert str(NotFoundError("no such table")) == "no such table"  # KeyError alone would quote it


@pytest.mark.parametrize("kind", KINDS)
def test_exit_codes(kind: type[FeatstoreError]) -> None:
    assert kind.exit_code == (2 if kind is UsageError else 1)


def test_every_error_is_in_the_tree_of_the_docstring() -> None:
    assert errors.__doc__
    for kind in KINDS:
        assert kind.__name__ in errors.__doc__


class TestDidYouMean:
    def test_ignores_case_and_gives_the_name_as_it_is_written(self) -> None:
        assert did_you_mean("PATIENT_ID", ["Patient_ID"]) == " Did you mean 'Patient_ID'?"

    def test_several(self) -> None:
        assert did_you_mean("gems", ["gem", "max", "gemma"]) == " Did you mean 'gem' or 'gemma'?"

    @given(st.text(), st.lists(st.text(max_size=8), max_size=5))
    def test_suggests_only_known_names(self, word: str, known: list[str]) -> None:
        text = did_you_mean(word, known)
        assert text == "" or any(repr(name) in text for name in known)
