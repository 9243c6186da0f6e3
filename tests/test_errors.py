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


URL = "https://user:pa55@index.example.org/t0ken/simple/demo/?sig=51gn"
SECRETS = ("pa55", "t0ken", "51gn")
REFUSED = UpstreamRefused(URL, 500)


@pytest.mark.parametrize(
    "error",
    [
        REFUSED,
        errors.UpstreamGarbled(URL, f"redirects to {URL}", detail=URL),
        errors.UpstreamUnreachable(URL, "down", 3, detail="t0ken"),
        errors.UpstreamWithoutRanges(URL),
        errors.ProjectNotFound("demo", URL),
        errors.DownloadInterrupted("demo.whl", REFUSED),
        errors.DownloadInterrupted("demo.whl", str(REFUSED)),
        errors.DownloadInterrupted("demo.whl", OSError(5, "EIO", "/t0ken")),
        errors.DownloadInterrupted("demo.whl", ValueError("t0ken")),
        errors.WheelUnreadable("demo.whl", REFUSED),
        errors.NotStored(f"cannot read {URL}"),
    ],
)
def test_clients_see_no_secret_of_a_url(error: PytailError):
    assert not any(secret in error.for_clients for secret in SECRETS)


def test_neither_text_of_an_error_has_credentials_or_a_query():
    for text in (str(REFUSED), repr(REFUSED), str(errors.ProjectNotFound("demo", URL))):
        assert "pa55" not in text
        assert "51gn" not in text


def test_the_log_has_the_path_and_clients_have_the_host():
    error = errors.UpstreamUnreachable(URL, "no route", detail="[Errno 113]")
    shown = "https://***@index.example.org/t0ken/simple/demo/"
    assert str(error) == f"upstream {shown}: no route ([Errno 113])"
    assert error.for_clients == "upstream https://index.example.org: no route"
