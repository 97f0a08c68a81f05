"""Bodies of answers: unpacked with a bound, and decoded into text."""

import codecs
import re
import zlib
from collections.abc import AsyncIterator

from loket.contracts import Failed

_PACKED = frozenset(("gzip", "x-gzip", "deflate"))
ACCEPTED = "gzip, deflate"
"""The header `Accept-Encoding` of every request: what is unpacked here."""

_SLACK = 65_536
_EITHER = zlib.MAX_WBITS | 32
"""zlib's own word for: find out whether it is gzip or zlib."""

_TEXT = re.compile(
    r"text/.+|application/(?:json|ndjson|jsonlines|x-ndjson|xml|javascript|ecmascript|x-javascript|yaml|x-yaml|toml"
    r"|graphql|sql|x-www-form-urlencoded|x-sh|ld\+json|rtf|x-subrip|mbox|vnd\.geo\+json)"
    r"|[^/]+/[^/]+\+(?:json|xml|yaml|json-seq)|message/.+|model/(?:obj|gltf\+json)"
)
_CHARSETS = re.compile(
    r"utf-?8|us-ascii|ascii|utf-?16(?:-?[lb]e)?|iso-?8859-?\d{1,2}|latin-?1|windows-?125[0-8]|cp125[0-8]|koi8-?[ru]"
    r"|shift[-_]?jis|sjis|euc[-_]?(?:jp|kr)|iso-2022-jp|gb2312|gbk|gb18030|big5|tis-620|macintosh"
)
"""Charsets of the web. Python knows more, and some are no charsets (`punycode`) or hide ASCII (`utf-7`)."""


class Unpacker:
    """Undoes `Content-Encoding`, never more of it than there is room for.

    Raises `Failed` (`net.encoding`) for one that was not asked for, and for data that are broken.
    """

    def __init__(self, encoding: str) -> None:
        name = encoding.strip().lower()
        if name not in _PACKED and name not in ("", "identity"):
            raise _broken(f"is packed as {name[:40]!r}, which was not asked for")
        self._packed = zlib.decompressobj(_EITHER) if name in _PACKED else None
        self._bare = name == "deflate"
        """Some servers leave the wrapping of zlib out; that shows with the first bytes."""

    def feed(self, data: bytes, room: int) -> bytes:
        """Unpack more data, to at most `room` bytes."""
        if self._packed is None:
            return data[:room]
        try:
            unpacked = self._packed.decompress(data, room)
        except zlib.error:
            if not self._bare:
                raise _broken("is packed, and broken") from None
            self._packed, self._bare = zlib.decompressobj(-zlib.MAX_WBITS), False
            return self.feed(data, room)
        self._bare = False
        return unpacked

    def check_end(self) -> None:
        """Raise `Failed` where packed data ended too early."""
        if self._packed is not None and not self._packed.eof:
            raise _broken("broke off before its end")


def _broken(what: str) -> Failed:
    return Failed("net.encoding", f"the body of the answer {what}", "try again, or fetch another address")


async def read_body(chunks: AsyncIterator[bytes], encoding: str, limit: int) -> tuple[bytes, bool]:
    """At most `limit` unpacked bytes, and whether there was more.

    What came over the wire is bound as well: data that unpack to nothing are not read for ever.
    """
    unpacker = Unpacker(encoding)
    body = bytearray()
    wire = 0
    async for chunk in chunks:
        wire += len(chunk)
        body += unpacker.feed(chunk, limit + 1 - len(body))
        if len(body) > limit or wire > limit + _SLACK:
            return bytes(body[:limit]), True
    if wire:
        unpacker.check_end()
    return bytes(body), False


def may_be_text(content_type: str) -> bool:
    """Whether a `Content-Type` is one of text; none may be as well."""
    kind = content_type.partition(";")[0].strip().lower()
    return not kind or _TEXT.fullmatch(kind) is not None


def decoded(data: bytes, content_type: str, *, cut: bool) -> str:
    """The text of a body: by its byte order mark, by its charset, or as UTF-8; U+FFFD stands for what does not fit.

    Without a content type, what is no UTF-8 or holds a NUL is no text: empty. `cut`: a half character at the end is
    left out.
    """
    if not content_type.strip() and (b"\x00" in data or not _is_utf8(data, cut=cut)):
        return ""
    decoder = codecs.getincrementaldecoder(_charset(data, content_type))("replace")
    return decoder.decode(data, final=not cut)


def _charset(data: bytes, content_type: str) -> str:
    if data.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    found = re.search(r";\s*charset\s*=\s*[\"']?([^\s\"';]+)", content_type, re.IGNORECASE)
    name = found[1].lower() if found else "utf-8"
    if not _CHARSETS.fullmatch(name):
        return "utf-8"
    try:
        return codecs.lookup(name).name
    except LookupError:
        return "utf-8"


def _is_utf8(data: bytes, *, cut: bool) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, final=not cut)
    except UnicodeDecodeError:
        return False
    return True
