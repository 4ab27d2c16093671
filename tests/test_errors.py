from __future__ import annotations

import inspect
import json

import pytest

from proxy import errors
from proxy.errors import BlobUnknown, MethodNotAllowed, ProxyError, Unauthorized

# The closed list of the distribution-spec, its 4xx only, and what registries use beside it.
CODES = {
    *("BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID"),
    *("MANIFEST_BLOB_UNKNOWN", "MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID"),
    *("NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED", "DENIED", "UNSUPPORTED", "TOOMANYREQUESTS"),
}
CLASSES = [
    found
    for _, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, ProxyError) and found is not ProxyError
]


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_error_has_a_code_and_a_status_that_fit(error: type[ProxyError]) -> None:
    assert error.__mro__[1] is ProxyError  # leaves only, no tree
    assert 400 <= error.status < 600
    if error.status >= 500 and error.status != 501:
        assert error.code == "UNAVAILABLE"
    else:
        assert error.code in CODES


@pytest.mark.parametrize("error", [ProxyError, *CLASSES], ids=lambda error: error.__name__)
def test_error_body_has_the_one_shape(error: type[ProxyError]) -> None:
    body = error("expected a, found b", detail={"limit": 1}).to_oci_json()
    entry = {"code": error.code, "message": "expected a, found b", "detail": {"limit": 1}}
    assert json.loads(body) == {"errors": [entry]}


def test_error_without_detail_and_headers_has_none() -> None:
    error = BlobUnknown("no such file")
    assert json.loads(error.to_oci_json())["errors"][0]["detail"] is None
    assert error.headers == ()
    assert str(error) == error.message == "no such file"


def test_error_headers_are_kept() -> None:
    headers = (("Retry-After", "7"),)
    assert errors.TooManyRequests("slow down", headers=headers).headers == headers


def test_H6_error_body_is_ascii_whatever_the_message_quotes() -> None:
    body = BlobUnknown('\udcff\x00\u202e"', detail=["ä\n"]).to_oci_json()
    assert body.isascii()
    assert json.loads(body)["errors"][0]["message"] == '\udcff\x00\u202e"'


def test_method_not_allowed_names_the_methods_in_text_and_header() -> None:
    error = MethodNotAllowed.of("GET, HEAD", "PROPFIND" * 10)
    assert error.status == 405
    assert error.headers == (("Allow", "GET, HEAD"),)
    assert error.message == "expected one of GET, HEAD, found 'PROPFINDPROPFINDPROP'"


def test_unauthorized_asks_for_basic_in_utf_8() -> None:
    error = Unauthorized.asking_basic("log in")
    assert (error.status, error.message) == (401, "log in")
    assert error.headers == (("WWW-Authenticate", 'Basic realm="cnai-proxy", charset="UTF-8"'),)
