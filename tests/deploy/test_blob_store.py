"""A registry on S3 that redirects readers there: ``deploy/blob-store.yaml``, both ways."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pytest

from proxy.oci.digest import Digest
from tests.components import content, registries
from tests.components.content import Artifact
from tests.components.programs import require, run
from tests.components.registries import CREDENTIAL, Server
from tests.components.s3 import S3Server, s3_registry, s3_server
from tests.deploy import recipes

_HEADERS = {"Authorization": CREDENTIAL.basic, "Cookie": "session=of-the-caller"}
# Differ from the recipe by one word each.
_VARIANTS = {
    "follow": {},
    "relay": {"redirects: follow": "redirects: relay"},
    "unnamed store": {"store.example:9000": "other.example:9000"},
}


@dataclass(frozen=True, slots=True)
class Store:
    """S3, the registry on it, and the proxy in each variant of the recipe."""

    s3: S3Server
    registry: Server
    folder: pytest.TempPathFactory

    def hold(self, repository: str) -> Artifact:
        """Place a model in the registry."""
        model = content.model_pack(repository)
        login = {"Authorization": CREDENTIAL.basic}
        content.push(self.registry.url, repository, "v1", model, headers=login)
        return model


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """S3 and a registry with a login that keeps its blobs there."""
    folder = tmp_path_factory.mktemp("s3-registry")
    with (
        s3_server(tmp_path_factory.mktemp("s3")) as s3,
        s3_registry(folder, s3, auth=registries.htpasswd_auth(folder)) as registry,
    ):
        yield Store(s3, registry, tmp_path_factory)


@pytest.fixture(scope="module")
def follow(store: Store) -> Iterator[Server]:
    """The recipe as it stands."""
    with _variant(store, "follow") as server:
        yield server


def _variant(store: Store, name: str) -> AbstractContextManager[Server]:
    changes = {"http://127.0.0.1:5000": store.registry.url, **_VARIANTS[name]}
    if "store.example:9000" not in changes:
        changes["store.example:9000"] = store.s3.host
    return recipes.proxy(store.folder.mktemp("proxy"), "blob-store.yaml", changes)


def _blob(server: Server, repository: str, blob: bytes) -> str:
    return f"{server.url}/v2/{repository}/blobs/{Digest.of(blob)}"


def test_blob_store_follow_serves_the_bytes(store: Store, follow: Server) -> None:
    model = store.hold("deploy/store/whole")

    for blob in model.blobs:
        url = _blob(follow, "deploy/store/whole", blob)
        answer = recipes.ask("GET", url, headers=_HEADERS)
        assert (answer.status, answer.body) == (200, blob)
        assert "location" not in answer.headers


def test_blob_store_follow_serves_a_range(store: Store, follow: Server) -> None:
    model = store.hold("deploy/store/range")
    url = _blob(follow, "deploy/store/range", model.blobs[1])
    before = len(store.s3.presigned())

    answer = recipes.ask("GET", url, headers={**_HEADERS, "Range": "bytes=8-15"})

    assert answer.status == 206
    assert answer.body == model.blobs[1][8:16]
    assert answer.headers["content-range"] == f"bytes 8-15/{len(model.blobs[1])}"
    asked = store.s3.presigned()[before:]
    assert [(request.range, request.status) for request in asked] == [("bytes=8-15", 206)]


def test_blob_store_follow_answers_head(store: Store, follow: Server) -> None:
    model = store.hold("deploy/store/head")
    url = _blob(follow, "deploy/store/head", model.blobs[1])

    answer = recipes.ask("HEAD", url, headers=_HEADERS)

    assert answer.status == 200
    assert int(answer.headers["content-length"]) == len(model.blobs[1])


def test_B1_blob_store_never_sees_the_callers_login(store: Store, follow: Server) -> None:
    model = store.hold("deploy/store/secret")
    before = len(store.s3.presigned())

    for path in ("readme", "files/model.safetensors"):
        url = f"{follow.url}/cnai/deploy/store/secret:v1/{path}"
        assert recipes.ask("GET", url, headers=_HEADERS).status == 200
    url = _blob(follow, "deploy/store/secret", model.blobs[1])
    assert recipes.ask("GET", url, headers=_HEADERS).status == 200

    asked = store.s3.presigned()[before:]
    assert len(asked) >= 3
    assert {(request.authorization, request.cookie) for request in asked} == {("", "")}


def test_blob_store_refuses_before_the_store_is_asked(store: Store, follow: Server) -> None:
    model = store.hold("deploy/store/refused")
    before = len(store.s3.presigned())

    for url in (
        _blob(follow, "deploy/store/refused", model.blobs[1]),
        f"{follow.url}/cnai/deploy/store/refused:v1/readme",
    ):
        assert recipes.ask("GET", url).status == 401

    assert store.s3.presigned()[before:] == []


def test_blob_store_relay_gives_the_client_the_redirect(store: Store) -> None:
    model = store.hold("deploy/store/relay")
    with _variant(store, "relay") as server:
        url = _blob(server, "deploy/store/relay", model.blobs[1])
        redirect = recipes.ask("GET", url, headers=_HEADERS)
        opened = recipes.ask(
            *("GET", f"{server.url}/cnai/deploy/store/relay:v1/readme"), headers=_HEADERS
        )

    assert redirect.status == 307
    assert redirect.headers["location"].startswith(f"{store.s3.url}/")
    assert recipes.ask("GET", redirect.headers["location"]).body == model.blobs[1]
    assert (opened.status, opened.body) == (200, b"# deploy/store/relay\n")


def test_C1_blob_store_on_a_private_address_has_to_be_named(store: Store) -> None:
    model = store.hold("deploy/store/unnamed")
    before = len(store.s3.presigned())
    with _variant(store, "unnamed store") as server:
        url = _blob(server, "deploy/store/unnamed", model.blobs[1])
        refused = recipes.ask("GET", url, headers=_HEADERS)

    assert refused.status == 502
    assert b"redirect_hosts" in refused.body
    assert store.s3.presigned()[before:] == []


@pytest.mark.parametrize("name", ["follow", "relay"])
def test_blob_store_skopeo_pulls_and_pushes(store: Store, name: str) -> None:
    repository = f"deploy/store/skopeo-{name}"
    model = store.hold(repository)
    with _variant(store, name) as server:
        run(
            [
                *(require("skopeo"), "copy", "--preserve-digests"),
                *("--src-creds", CREDENTIAL.pair, "--src-tls-verify=false"),
                *("--dest-creds", CREDENTIAL.pair, "--dest-tls-verify=false"),
                f"docker://{server.host}/{repository}:v1",
                f"docker://{server.host}/{repository}-copy:v1",
            ]
        )

    login = {"Authorization": CREDENTIAL.basic}
    stored = content.stored_digest(store.registry.url, f"{repository}-copy", "v1", headers=login)
    assert stored == str(model.digest)
