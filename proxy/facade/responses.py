"""Answers of the proxy's own: errors in the one body shape, JSON, the headers they share."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aiohttp import web

from proxy.errors import ProxyError
from proxy.facade.caching import NOT_STORED, REVALIDATED

# Artifact content never runs in the proxy's origin, whatever its bytes are (row G2).
NO_SNIFFING: Mapping[str, str] = {"X-Content-Type-Options": "nosniff"}
CONTENT_SAFETY: Mapping[str, str] = {
    **NO_SNIFFING,
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def error_response(error: ProxyError) -> web.Response:
    """The one error body of every route: OCI JSON, never stored by a cache."""
    response = web.Response(
        status=error.status, body=error.to_oci_json(), content_type="application/json"
    )
    response.headers.update(NO_SNIFFING)
    response.headers.update(NOT_STORED)
    for name, value in error.headers:
        response.headers.add(name, value)
    return response


# Only the caller's own cache may keep an answer, and must revalidate.
JSON_HEADERS: Mapping[str, str] = {**REVALIDATED, **NO_SNIFFING}


def json_response(value: object) -> web.Response:
    """``value`` as JSON; what is no Unicode text in it is replaced."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return web.Response(
        body=text.encode("utf-8", "replace"), content_type="application/json", headers=JSON_HEADERS
    )
