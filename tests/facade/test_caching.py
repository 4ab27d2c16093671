from __future__ import annotations

import pytest

from proxy.facade.caching import cache_headers, file_cache_headers
from proxy.oci import endpoint

DIGEST = f"sha256:{'0' * 64}"
VARY = "Authorization, Accept, Range"
IMMUTABLE = {"Cache-Control": "private, max-age=31536000, immutable", "Vary": VARY}
REVALIDATED = {"Cache-Control": "private, no-cache", "Vary": VARY}
NOT_STORED = {"Cache-Control": "no-store"}

BY_DIGEST = (f"/v2/a/manifests/{DIGEST}", f"/v2/a/blobs/{DIGEST}")
CHANGING = (
    "/v2/",
    "/v2/_catalog",
    "/v2/a/tags/list",
    "/v2/a/manifests/v1",
    f"/v2/a/referrers/{DIGEST}",
    "/v2/a/_something",
    # Nothing here could check these digests.
    "/v2/a/manifests/blake9:abc",
    "/v2/a/blobs/blake9:abc",
)
UPLOAD = "/v2/a/blobs/uploads/session"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [200, 206, 304])
@pytest.mark.parametrize("path", BY_DIGEST)
def test_A14_what_a_digest_names_is_kept_by_the_caller_alone(
    path: str, status: int, method: str
) -> None:
    assert cache_headers(endpoint.parse(path), method, status) == IMMUTABLE


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [200, 206, 304])
@pytest.mark.parametrize("path", CHANGING)
def test_A14_what_may_change_is_asked_for_again(path: str, status: int, method: str) -> None:
    assert cache_headers(endpoint.parse(path), method, status) == REVALIDATED


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "status", [300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 416, 429, 500, 502, 503, 504]
)
@pytest.mark.parametrize("path", [*BY_DIGEST, *CHANGING, UPLOAD])
def test_A14_errors_and_signed_addresses_are_not_stored(
    path: str, status: int, method: str
) -> None:
    assert cache_headers(endpoint.parse(path), method, status) == NOT_STORED


@pytest.mark.parametrize("path", [*BY_DIGEST, UPLOAD])
def test_A14_answer_without_content_is_not_stored(path: str) -> None:
    assert cache_headers(endpoint.parse(path), "GET", 204) == NOT_STORED


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("status", [200, 201, 202, 204, 307, 404, 500])
@pytest.mark.parametrize("path", [*BY_DIGEST, *CHANGING, UPLOAD])
def test_A14_writes_get_no_word_about_caches(path: str, status: int, method: str) -> None:
    assert cache_headers(endpoint.parse(path), method, status) == {}


def test_A14_nothing_is_for_a_shared_cache() -> None:
    for path in (*BY_DIGEST, *CHANGING, UPLOAD):
        for status in (200, 204, 206, 304, 307, 404, 500):
            control = cache_headers(endpoint.parse(path), "GET", status)["Cache-Control"]
            assert control == "no-store" or control.startswith("private, ")


def test_A14_file_of_a_model_by_digest_is_kept() -> None:
    assert file_cache_headers(by_digest=True) == IMMUTABLE
    assert file_cache_headers(by_digest=False) == REVALIDATED
