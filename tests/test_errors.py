"""The errors and their texts."""

from __future__ import annotations

import inspect
import re

import pytest

from pytail import errors
from pytail.errors import PytailError, Remedy, SettingError, UpstreamError, UpstreamRefused


def kinds() -> dict[str, type[PytailError]]:
    """Return each error class by its name."""
    classes = inspect.getmembers(errors, inspect.isclass)
    return {name: kind for name, kind in classes if issubclass(kind, PytailError)}


def drawn() -> dict[str, str]:
    """Return, by its name, the parent of each error in the tree of the docstring."""
    parents, path = {}, ["PytailError"]
    for indent, name in re.findall(r"^ {4}([│ ]*)[├└]── (\w+)", errors.__doc__ or "", re.MULTILINE):
        path[1 + len(indent) // 4 :] = [name]
        parents[name] = path[-2]
    return parents


def test_the_tree_of_the_docstring_is_that_of_the_classes():
    parents = {name: kind.__bases__[0].__name__ for name, kind in kinds().items()}
    assert drawn() == {name: parent for name, parent in parents.items() if name != "PytailError"}


def test_a_remedy_shows_its_text():
    assert f"{Remedy.ADDRESS_IN_USE}" == str(Remedy.ADDRESS_IN_USE) == Remedy.ADDRESS_IN_USE.value


def test_a_setting_error_names_the_setting_the_value_and_the_remedy():
    error = SettingError("bind address", "x:1", Remedy.ADDRESS_NOT_USABLE.format(reason="no {x}"))
    assert str(error) == "bind address 'x:1': cannot be listened on: no {x}"


@pytest.mark.parametrize("remedy", Remedy)
def test_a_remedy_is_one_line(remedy: Remedy):
    assert remedy == remedy.strip()
    assert "\n" not in remedy


def test_a_shared_error_is_the_same_but_for_its_outcome():
    error = UpstreamRefused("https://index.example.org/simple/demo/", 503, retry_after=7)
    other = error.shared()
    assert (type(other), str(other)) == (UpstreamRefused, str(error))
    assert vars(other) == {**vars(error), "outcome": "COALESCED"}
    assert (error.outcome, other.outcome) == (UpstreamError.outcome, "COALESCED")
