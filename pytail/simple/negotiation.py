"""Content negotiation: the form and the content coding of a page (PEP 691, RFC 9110 section 12.5)."""

from __future__ import annotations

import enum
import functools
import re

from pytail.errors import NotAcceptable


class Form(enum.Enum):
    """A form of a page; the value is the Content-Type."""

    JSON = "application/vnd.pypi.simple.v1+json"
    HTML_V1 = "application/vnd.pypi.simple.v1+html; charset=utf-8"
    HTML = "text/html; charset=utf-8"

    @property
    def media_type(self) -> str:
        """The Content-Type without parameters."""
        return self.value.partition(";")[0]

    @property
    def is_html(self) -> bool:
        """Whether the body is HTML."""
        return self is not Form.JSON


class Coding(enum.Enum):
    """A content coding, best compression first; the value is the Content-Encoding."""

    ZSTD = "zstd"
    GZIP = "gzip"
    IDENTITY = "identity"


_FORMS = {form.media_type: form for form in Form} | {
    "application/vnd.pypi.simple.latest+json": Form.JSON,
    "application/vnd.pypi.simple.latest+html": Form.HTML_V1,
}
#: By media range, the forms that it includes, the preferred first. Browsers and old tools send
#: ``*/*`` and read HTML; only a client of an index sends ``application/*``.
_MEDIA_RANGES = {
    "*/*": (Form.HTML, Form.HTML_V1, Form.JSON),
    "text/*": (Form.HTML,),
    "application/*": (Form.JSON, Form.HTML_V1),
}
_QVALUE = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
#: Characters of a header that are read; no released client sends more.
_MAX_HEADER = 4096
#: Results in memory, and the maximum length of their headers: pip sends about 100 characters, a
#: browser about 140.
_CACHED_RESULTS, _MAX_CACHED = 256, 512


def form_for(accept: str | None, format_: str | None = None) -> Form:
    """Return the form for an Accept header, or for the ``?format=`` parameter, which has priority.

    A header that is absent, empty or without one valid member accepts every form. Raises
    NotAcceptable where the client accepts no form.
    """
    accept, format_ = accept or "", format_ or ""
    is_short = len(accept) + len(format_) <= _MAX_CACHED
    return _cached_form(accept, format_) if is_short else _negotiated_form(accept, format_)


def coding_for(accept_encoding: str | None) -> Coding:
    """Return the content coding for an Accept-Encoding header.

    Of several codings with the highest weight, return the one that compresses best.
    """
    accept = accept_encoding or ""
    return _cached_coding(accept) if len(accept) <= _MAX_CACHED else _negotiated_coding(accept)


@functools.lru_cache(maxsize=_CACHED_RESULTS)
def _cached_form(accept: str, format_: str) -> Form:
    return _negotiated_form(accept, format_)


@functools.lru_cache(maxsize=_CACHED_RESULTS)
def _cached_coding(accept: str) -> Coding:
    return _negotiated_coding(accept)


def _negotiated_form(accept: str, format_: str) -> Form:
    if format_:
        # A plus sign in a query decodes to a space.
        form = _FORMS.get(format_.strip().lower().replace(" ", "+"))
        if form is None:
            raise NotAcceptable(format_)
        return form
    ranges = _weights(accept) or {"*/*": 1.0}
    ranked: dict[Form, tuple[float, int, int]] = {}
    # The most specific media range sets the weight of a form (RFC 9110 section 12.5.1), so the
    # general ranges come first.
    for order, kind in enumerate(("*/*", "x/*", "x/y")):
        for name, weight in ranges.items():
            if _kind(name) == kind:
                forms = _MEDIA_RANGES.get(name) or ((_FORMS[name],) if name in _FORMS else ())
                for rank, form in enumerate(forms):
                    preference = rank if kind != "x/y" else list(Form).index(form)
                    ranked[form] = (weight, order, -preference)
    best = max(ranked, key=ranked.__getitem__, default=None)
    if best is None or ranked[best][0] == 0:
        raise NotAcceptable(accept)
    return best


def _negotiated_coding(accept: str) -> Coding:
    weights = _weights(accept)
    weights.setdefault("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    # `max` returns the first of equals, so the order of the members decides.
    best = max(Coding, key=lambda coding: weights.get(coding.value, 0.0))
    return best if weights.get(best.value, 0.0) > 0 else Coding.IDENTITY


def _kind(media_range: str) -> str:
    return media_range if media_range == "*/*" else "x/*" if media_range.endswith("/*") else "x/y"


def _weights(header: str) -> dict[str, float]:
    """Return by lower-case name the weight of each valid member, 0 to 1."""
    found: dict[str, float] = {}
    for member in header[:_MAX_HEADER].split(","):
        name, *parameters = (text.strip().lower() for text in member.split(";"))
        weight = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                # A member with an invalid weight is ignored.
                weight = float(value) if _QVALUE.fullmatch(value.strip()) else -1.0
        if name and weight >= 0:
            found[name] = max(weight, found.get(name, 0.0))
    return found
