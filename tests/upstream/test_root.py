"""The possible roots of an index, and its name in the catalog."""

from __future__ import annotations

import pytest

from pytail.upstream.root import IndexRoot, roots_of

INDEX = "https://index.example.org"


@pytest.mark.parametrize(
    ("base", "suffixes"),
    [
        ("", ("/simple/", "/+simple/", "/")),
        ("/whl/cu128", ("/simple/", "/+simple/", "/")),
        ("/not-simple", ("/simple/", "/+simple/", "/")),
        ("/simple", ("/", "/simple/", "/+simple/")),
        ("/root/pypi/+simple", ("/", "/simple/", "/+simple/")),
        ("/root/pypi/%2Bsimple", ("/", "/simple/", "/+simple/")),
    ],
)
def test_the_likeliest_root_is_the_first(base: str, suffixes: tuple[str, ...]):
    roots = roots_of(INDEX + base)
    assert tuple(root.suffix for root in roots) == suffixes
    assert [root.url for root in roots] == [f"{INDEX}{base}{suffix}" for suffix in suffixes]


def test_no_root_has_credentials():
    root = IndexRoot("https://user:secret@index.example.org/simple", lambda _: None)
    shown = f"{root.base_url}{root.key}{root.candidates}"
    assert "secret" not in shown
    assert root.candidates[0].page_url("demo") == f"{INDEX}/simple/demo/"


def test_one_index_has_one_key():
    one, other = roots_of(INDEX), roots_of(f"{INDEX}/simple")
    assert one[0].url == other[0].url == f"{INDEX}/simple/"
    assert one[0].key == other[0].key == INDEX


def test_two_roots_have_two_keys():
    keys = [root.key for base in ("", "/simple", "/a") for root in roots_of(INDEX + base)]
    urls = [root.url for base in ("", "/simple", "/a") for root in roots_of(INDEX + base)]
    assert len(set(keys)) == len(set(urls))


def test_the_root_of_a_remembered_key_is_known():
    asked = []

    def recall(keys: object) -> str:
        asked.append(keys)
        return f"{INDEX}/whl/"

    root = IndexRoot(f"{INDEX}/whl", recall)
    assert root.key == f"{INDEX}/whl/"
    assert root.known is root.likeliest is root.candidates[-1]
    assert len(asked) == 1


def test_without_a_memory_the_likeliest_root_gives_the_key():
    root = IndexRoot(f"{INDEX}/whl", lambda _: None)
    assert root.known is None
    assert root.key == f"{INDEX}/whl"
    root.find(root.candidates[-1])
    assert root.key == f"{INDEX}/whl/"


def test_a_root_that_is_found_while_the_catalog_is_read_stays_found():
    def recall(_: object) -> None:
        root.find(root.candidates[-1])

    root = IndexRoot(f"{INDEX}/whl", recall)
    assert root.known is root.candidates[-1]
    assert root.key == f"{INDEX}/whl/"
