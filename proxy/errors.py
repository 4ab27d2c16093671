"""Every failure the proxy can name: an OCI error code, an HTTP status, a message, a detail.

The message says what was expected, what was found and where; it never holds a credential or a
signed URL. Nothing here knows a web framework: ``status`` is the hint the facades follow.
Source: distribution-spec v1.1, "Error Codes"; RFC 9110 §15.
"""

from __future__ import annotations

import json
from typing import ClassVar


class ProxyError(Exception):
    """A failure with an answer for the client.

    ``detail`` is any JSON value that helps the reader (what there is, the limit and what was
    found); ``headers`` are response headers the answer needs (a challenge, ``Content-Range``).
    """

    code: ClassVar[str] = "UNKNOWN"
    status: ClassVar[int] = 500

    def __init__(
        self,
        message: str,
        *,
        detail: object = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.headers = headers

    def to_oci_json(self) -> bytes:
        """The body of the distribution-spec: ``{"errors":[{"code","message","detail"}]}``."""
        entry = {"code": self.code, "message": self.message, "detail": self.detail}
        return json.dumps({"errors": [entry]}, separators=(",", ":")).encode("ascii")


class BadRequest(ProxyError):
    """The request itself is malformed: framing, header, query."""

    code = "UNSUPPORTED"
    status = 400


class NameInvalid(ProxyError):
    """A repository name, tag or path outside the grammar of the distribution-spec."""

    code = "NAME_INVALID"
    status = 400


class DigestInvalid(ProxyError):
    """A digest outside the grammar of the image-spec."""

    code = "DIGEST_INVALID"
    status = 400


class ManifestInvalid(ProxyError):
    """A pushed manifest that is none, or whose type is not the one announced."""

    code = "MANIFEST_INVALID"
    status = 400


class BlobUploadInvalid(ProxyError):
    """A step of an upload whose length or ``Content-Range`` is wrong."""

    code = "BLOB_UPLOAD_INVALID"
    status = 400


class Unauthorized(ProxyError):
    """No credential, or one that is refused; ``headers`` carry the challenge, if any."""

    code = "UNAUTHORIZED"
    status = 401

    @classmethod
    def asking_basic(cls, text: str) -> Unauthorized:
        """With the challenge that makes browsers and curl ask for a name and a password."""
        challenge = 'Basic realm="cnai-proxy", charset="UTF-8"'
        return cls(text, headers=(("WWW-Authenticate", challenge),))


class Denied(ProxyError):
    """The upstream knows the caller and says no."""

    code = "DENIED"
    status = 403


class ManifestUnknown(ProxyError):
    """No such repository or reference, or it is no model."""

    code = "MANIFEST_UNKNOWN"
    status = 404


class BlobUnknown(ProxyError):
    """No such file, addition or layer; ``detail`` lists what there is."""

    code = "BLOB_UNKNOWN"
    status = 404


class ManifestBlobUnknown(ProxyError):
    """A pushed manifest names content that the repository does not hold."""

    code = "MANIFEST_BLOB_UNKNOWN"
    status = 404


class BlobUploadUnknown(ProxyError):
    """No such upload in this repository, or it has ended."""

    code = "BLOB_UPLOAD_UNKNOWN"
    status = 404


class NotFound(ProxyError):
    """No such route."""

    code = "NAME_UNKNOWN"
    status = 404


class MethodNotAllowed(ProxyError):
    """The address exists, the method does not; ``headers`` carry ``Allow``."""

    code = "UNSUPPORTED"
    status = 405

    @classmethod
    def of(cls, allowed: str, found: str) -> MethodNotAllowed:
        """``allowed`` is the value of ``Allow``, ``found`` the method that came."""
        text = f"expected one of {allowed}, found {found[:20]!r}"
        return cls(text, headers=(("Allow", allowed),))


class RequestTimeout(ProxyError):
    """The client stopped sending its body."""

    code = "UNSUPPORTED"
    status = 408


class SizeInvalid(ProxyError):
    """Over a limit; the message names the limit and what was found."""

    code = "SIZE_INVALID"
    status = 413


class RangeNotSatisfiable(ProxyError):
    """A Range that starts behind the end; ``headers`` carry ``Content-Range: bytes */N``."""

    code = "SIZE_INVALID"
    status = 416


class ChunkOutOfOrder(ProxyError):
    """A chunk that does not start where the upload ends; ``headers`` say where that is."""

    code = "BLOB_UPLOAD_INVALID"
    status = 416


class MalformedArtifact(ProxyError):
    """The artifact's own bytes are wrong; the message names the JSON path or byte offset."""

    code = "MANIFEST_INVALID"
    status = 422


class TooManyRequests(ProxyError):
    """The upstream limits its callers; ``headers`` carry ``Retry-After`` where it gave one."""

    code = "TOOMANYREQUESTS"
    status = 429


class PackingUnsupported(ProxyError):
    """Decoding cannot begin there: a library that it takes is missing on this machine."""

    code = "UNSUPPORTED"
    status = 501


class BadUpstream(ProxyError):
    """The upstream answered something that is not a registry's answer."""

    code = "UNAVAILABLE"
    status = 502


class UpstreamUnreachable(ProxyError):
    """No connection to the upstream: name, address, TLS."""

    code = "UNAVAILABLE"
    status = 503


class UpstreamTimeout(ProxyError):
    """The upstream is connected but silent."""

    code = "UNAVAILABLE"
    status = 504


class LoopDetected(ProxyError):
    """A request that this very proxy sent has come back to it."""

    code = "UNAVAILABLE"
    status = 508
