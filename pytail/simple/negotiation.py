"""Which form and which coding of a page a client wants (PEP 691, RFC 9110 section 12.5)."""

from __future__ import annotations

import enum
import re

from pytail.errors import NotAcceptable


class Form(enum.Enum):
    """A form that pages come in; the value is its Content-Type."""

    JSON = "application/vnd.pypi.simple.v1+json"
    HTML_V1 = "application/vnd.pypi.simple.v1+html; charset=utf-8"
    HTML = "text/html; charset=utf-8"

    @property
    def media_type(self) -> str:
        """The Content-Type without parameters."""
        return self.value.partition(";")[0]

    @property
    def is_html(self) -> bool:
        """Whether the body is HTML, whatever it is called."""
        return self is not Form.JSON


class Coding(enum.Enum):
    """A content coding, the tightest first; the value is its name in Content-Encoding."""

    ZSTD = "zstd"
    GZIP = "gzip"
    IDENTITY = "identity"


_NAMES = {form.media_type: form for form in Form} | {
    "application/vnd.pypi.simple.latest+json": Form.JSON,
    "application/vnd.pypi.simple.latest+html": Form.HTML_V1,
}
#: What a range that names no single form means, the preferred first: a person or an old tool
#: sends ``*/*`` and reads HTML, and only an index client names a tree.
_RANGES = {
    "*/*": (Form.HTML, Form.HTML_V1, Form.JSON),
    "text/*": (Form.HTML,),
    "application/*": (Form.JSON, Form.HTML_V1),
}
_QVALUE = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
#: Longer headers are nobody's; what is beyond is not read.
_LONGEST = 4096


def form_for(accept: str | None, wanted: str | None = None) -> Form:
    """The form for an Accept header, or for the `wanted` of ``?format=``, which goes before it.

    An absent, empty or wholly malformed header takes anything. Raises NotAcceptable when nothing
    offered would be taken.
    """
    if wanted:
        # A plus sign in a query decodes to a space.
        form = _NAMES.get(wanted.strip().lower().replace(" ", "+"))
        if form is None:
            raise NotAcceptable(wanted)
        return form
    ranges = _weighted(accept or "")
    ranked: dict[Form, tuple[float, int, int]] = {}
    # The most specific range decides about a form, so ranges are taken from wide to narrow.
    for order, width in enumerate(("*/*", "x/*", "x/y")):
        for name, quality in (ranges or {"*/*": 1.0}).items():
            if _width(name) == width:
                forms = _RANGES.get(name) or ((_NAMES[name],) if name in _NAMES else ())
                for rank, form in enumerate(forms):
                    preference = rank if width != "x/y" else list(Form).index(form)
                    ranked[form] = (quality, order, -preference)
    best = max(ranked, key=ranked.__getitem__, default=None)
    if best is None or ranked[best][0] == 0:
        raise NotAcceptable(accept or "")
    return best


def coding_for(accept_encoding: str | None) -> Coding:
    """The content coding for an Accept-Encoding header: the tightest of those liked best."""
    qualities = _weighted(accept_encoding or "")
    qualities.setdefault("gzip", qualities.get("x-gzip", qualities.get("*", 0.0)))
    # The order of the members decides among equals; what is refused is none at all.
    liked = max(Coding, key=lambda coding: qualities.get(coding.value, 0.0))
    return liked if qualities.get(liked.value, 0.0) > 0 else Coding.IDENTITY


def _width(name: str) -> str:
    return name if name == "*/*" else "x/*" if name.endswith("/*") else "x/y"


def _weighted(header: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for member in header[:_LONGEST].split(","):
        name, *parameters = (part.strip().lower() for part in member.split(";"))
        quality = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                # A weight that is none makes the member one that was not sent.
                quality = float(value) if _QVALUE.fullmatch(value.strip()) else -1.0
        if name and quality >= 0:
            found[name] = max(quality, found.get(name, 0.0))
    return found
