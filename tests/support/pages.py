"""Strategies of hypothesis for pages, files and their fields."""

from __future__ import annotations

import string
from urllib.parse import quote

from hypothesis import strategies as st

from pytail.model import DIGEST_LENGTHS, File, ProjectPage, directory_of
from pytail.simple.fields import PROJECT_STATUSES
from pytail.simple.names import is_filename

FRAGMENT_HASHES = ("sha256", "sha512", "sha384", "md5", "sha1")

#: Text of any script, and attempts at injection.
prose = (
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn", "Co"]), max_size=30)
    | st.sampled_from(['"><script>alert(1)</script>', "'><b>", "&lt;&amp;", "a --> b", "]]>", "<!--"])
).map(str.strip).filter(bool)  # fmt: skip


def digests(names) -> st.SearchStrategy[dict[str, str]]:
    return st.sampled_from(sorted(names)).flatmap(
        lambda name: st.text("0123456789abcdef", min_size=(length := DIGEST_LENGTHS[name]), max_size=length)
        .map(lambda digest: {name: digest})
    )  # fmt: skip


@st.composite
def files(draw, filenames: st.SearchStrategy[str], hashes: st.SearchStrategy, **more) -> File:
    filename, known = draw(filenames), draw(hashes)
    fields = {name: draw(values) for name, values in more.items()}
    url = f"https://files.example.org/{draw(st.sampled_from('abc'))}/{quote(filename)}"
    return File(
        filename=filename,
        url=url,
        directory=directory_of(known, url, fields.get("size")),
        hashes=known,
        requires_python=draw(st.none() | prose),
        yanked=draw(st.booleans() | prose),
        core_metadata=draw(st.none() | st.just(value=True) | hashes.filter(bool)),
        gpg_sig=draw(st.none() | st.booleans()),
        provenance=draw(st.none() | st.just("https://index.example.org/integrity/foo?a=1&b=2")),
        **fields,
    )


@st.composite
def pages(draw, files: st.SearchStrategy[File], **more) -> ProjectPage:
    status = draw(st.none() | st.sampled_from(sorted(PROJECT_STATUSES)))
    listed = draw(st.lists(files, max_size=4, unique_by=lambda file: file.filename))
    return ProjectPage(
        name="foo-bar",
        files=() if status == "quarantined" else tuple(listed),
        status=status,
        status_reason=draw(st.none() | prose) if status else None,
        **{name: draw(values) for name, values in more.items()},
    )


#: Names of files that both forms list: in HTML, only these names mark a link as a file.
distributions = st.builds(
    "{}-{}{}".format,
    st.sampled_from(["foo_bar", "Foo.Bar"]),
    st.text(string.digits, min_size=1, max_size=3) | st.just("1!2.0+cu121") | st.just("1.0'<\"&>"),
    st.sampled_from(["-py3-none-any.whl", ".tar.gz", ".zip", "-py2.7.egg"]),
)
filenames = distributions | prose.filter(is_filename)
