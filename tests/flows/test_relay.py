"""What a request or an answer may not carry across, besides what its address says."""

from __future__ import annotations

import json

import pytest

from tests.faulty_upstream import Fault, FaultyUpstream
from tests.flows.conftest import StartProxy
from tests.flows.http import Client

DIGEST = "sha256:" + "1" * 64


@pytest.fixture
async def hub(start_proxy: StartProxy) -> Client:
    """A proxy before one upstream, at ``hub/``, that closes ``secret/``."""
    return await start_proxy(upstream__prefix="hub", upstream__deny=["secret/**"])


@pytest.mark.parametrize(
    "media_type",
    [
        "application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded; charset=utf-8",
        "multipart/form-data; boundary=x",
        "APPLICATION/X-WWW-FORM-URLENCODED",
        "text/plain",
    ],
)
async def test_K5_mount_in_a_form_is_no_mount(
    hub: Client, upstream: FaultyUpstream, media_type: str
) -> None:
    """distribution reads ``mount`` and ``from`` out of a form, too."""
    body = f"mount={DIGEST}&from=secret/a".encode()
    headers = [("Content-Type", media_type)]

    await hub.send("POST", "/v2/hub/mine/b/blobs/uploads/", headers=headers, body=body)

    (seen,) = upstream.requests("POST")
    assert seen.get("Content-Type") == "application/octet-stream"
    assert seen.body == body


async def test_K5_other_writes_keep_their_type(hub: Client, upstream: FaultyUpstream) -> None:
    media_type = "application/vnd.oci.image.manifest.v1+json"
    headers = [("Content-Type", media_type)]
    await hub.send("PUT", "/v2/hub/a/manifests/v1", headers=headers, body=b"{}")
    assert upstream.log[-1].get("Content-Type") == media_type


@pytest.mark.parametrize("target", ["/v2/hub/a/tags/list", "/v2/_catalog"])
async def test_A10_part_of_a_list_is_not_asked_for(
    hub: Client, upstream: FaultyUpstream, target: str
) -> None:
    document = {"name": "a", "repositories": ["a", "secret/b"], "tags": ["v1"]}
    upstream.faults.append(Fault(match="/v2/", status=206, body=json.dumps(document).encode()))

    answer = await hub.get(target, Range="bytes=0-", If_Range='"x"')

    assert upstream.log[-1].get("Range") is None
    assert upstream.log[-1].get("If-Range") is None
    assert b"secret" not in answer.body or target != "/v2/_catalog"
    assert answer.json["name"] == ("hub/a" if "tags" in target else "a")


async def test_error_of_many_bytes_passes_as_it_is(hub: Client, upstream: FaultyUpstream) -> None:
    body = json.dumps({"errors": [{"detail": {"name": "a"}, "message": "m" * 70_000}]}).encode()
    headers = [("Content-Type", "application/json")]
    upstream.faults.append(Fault(match="/v2/a", status=404, body=body, headers=headers))
    assert (await hub.get("/v2/hub/a/manifests/v1")).body == body


async def test_tower_of_json_is_no_failure_of_ours(hub: Client, upstream: FaultyUpstream) -> None:
    tower = b"[" * 960 + b"]" * 960
    headers = [("Content-Type", "application/json")]
    body = b'{"errors":[{"detail":{"name":"a","x":' + tower + b"}}]}"
    upstream.faults.append(Fault(match="manifests", status=404, body=body, headers=headers))
    assert (await hub.get("/v2/hub/a/manifests/v1")).status == 404
    body = b'{"name":"a","tags":' + tower + b"}"
    upstream.faults.append(Fault(match="tags", status=200, body=body, headers=headers))
    assert (await hub.get("/v2/hub/a/tags/list")).status in (200, 502)


async def test_own_answers_name_the_namespace_that_chose(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    proxy = await start_proxy(upstream__namespaces=["docker.io"], upstream__deny=["secret/**"])
    answer = await proxy.get("/v2/secret/a/manifests/v1?ns=docker.io")
    assert (answer.status, answer.headers["OCI-Namespace"]) == (403, "docker.io")
    assert "OCI-Namespace" not in (await proxy.get("/v2/secret/a/manifests/v1")).headers


async def test_request_that_finds_no_upstream_is_logged_with_its_host(
    start_proxy: StartProxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="proxy.access")
    proxy = await start_proxy(upstream__hosts=["hub.example"], upstream__default=False)
    for target in ("/v2/", "/v2/a/tags/list"):
        assert (await proxy.get(target, Host="other.example:81")).status == 404
    await proxy.get("/v2/", Host="hub.example")
    fields = [getattr(record, "fields", {}) for record in caplog.records]
    assert [each.get("host") for each in fields] == ["other.example:81"] * 2 + [None]
