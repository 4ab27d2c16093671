"""Only ``/cnai/`` from the proxy, ``/v2/`` from the registry, one address for both by nginx:
``deploy/beside-registry.yaml`` and ``deploy/nginx.conf``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.components import content
from tests.components.programs import require, run, wait_until
from tests.components.registries import CREDENTIAL, WRONG, Server
from tests.components.tokens import TokenService
from tests.deploy import recipes
from tests.deploy.recipes import Tls

# Another address of this machine: not the one that nginx connects from.
_STRANGER = "127.0.0.2"
_FORGED = {
    "X-Forwarded-For": "203.0.113.7",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "https",
    "X-Real-IP": "203.0.113.7",
    "Forwarded": "for=203.0.113.7;host=evil.example;proto=https",
}


@dataclass(frozen=True, slots=True)
class Beside:
    """nginx at ``url``, and what it has behind it."""

    url: str
    proxy: Server
    registry: Server

    @property
    def host(self) -> str:
        """As clients write it before a repository."""
        return self.url.removeprefix("https://")

    def hold(self, repository: str, name: str) -> None:
        """Place a model directly in the registry, past everything under test."""
        headers = content.login(self.registry.url, repository, CREDENTIAL)
        model = content.model_pack(name)
        content.push(self.registry.url, repository, "v1", model, headers=headers)


@pytest.fixture(scope="module")
def beside(
    guarded_registry: Server,
    tokens: TokenService,
    tls: Tls,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Beside]:
    """The recipe with a registry that has a login."""
    port = recipes.free_port()
    url = f"https://127.0.0.1:{port}"
    changes = {
        "https://registry.example": url,
        "http://127.0.0.1:5000": guarded_registry.url,
        "auth.example": tokens.origin,
    }
    folder = tmp_path_factory.mktemp("beside-registry")
    with recipes.proxy(folder, "beside-registry.yaml", changes) as server:
        web = {
            "127.0.0.1:5000": guarded_registry.host,
            "127.0.0.1:8080": server.host,
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            **tls.changes("/etc/nginx"),
        }
        with recipes.nginx(tmp_path_factory.mktemp("nginx"), web, port=port):
            yield Beside(url, server, guarded_registry)


def _logged(beside: Beside, path: str) -> dict[str, object]:
    """The proxy's access line for its only request of a repository."""

    def found() -> list[dict[str, object]]:
        lines = recipes.access_lines(beside.proxy)
        return [line for line in lines if line.get("repository") == path]

    wait_until(lambda: len(found()) == 1, what=lambda: f"one access line of {path}: {found()}")
    return found()[0]


def test_beside_registry_v2_is_the_registrys_own(beside: Beside, tls: Tls) -> None:
    beside.hold("deploy/beside/source", "pushed and pulled")

    run(
        [
            *(require("skopeo"), "copy", "--preserve-digests"),
            *("--src-creds", CREDENTIAL.pair, "--src-cert-dir", tls.cert_dir),
            *("--dest-creds", CREDENTIAL.pair, "--dest-cert-dir", tls.cert_dir),
            f"docker://{beside.host}/deploy/beside/source:v1",
            f"docker://{beside.host}/deploy/beside/copy:v1",
        ]
    )

    headers = content.login(beside.registry.url, "deploy/beside/copy", CREDENTIAL)
    stored = content.stored_digest(beside.registry.url, "deploy/beside/copy", "v1", headers=headers)
    assert stored == str(content.model_pack("pushed and pulled").digest)
    repositories = {line.get("repository") for line in recipes.access_lines(beside.proxy)}
    assert not {"deploy/beside/source", "deploy/beside/copy"} & repositories


def test_beside_registry_v2_of_the_proxy_itself_is_404(beside: Beside) -> None:
    headers = {"Authorization": CREDENTIAL.basic}

    for path in ("/v2/", "/v2/_catalog", "/v2/deploy/beside/source/tags/list", "/-/token"):
        assert recipes.ask("GET", f"{beside.proxy.url}{path}", headers=headers).status == 404


@pytest.mark.parametrize("path", ["/v2/../cnai/x", "/v2/%2e%2e/cnai/x:v1"])
def test_E1_beside_registry_dot_segments_reach_no_other_api(
    beside: Beside, tls: Tls, path: str
) -> None:
    headers = {"Authorization": CREDENTIAL.basic}

    assert recipes.ask("GET", f"{beside.url}{path}", tls=tls, headers=headers).status in (400, 404)


def test_beside_registry_opens_a_model_with_basic(beside: Beside, tls: Tls) -> None:
    beside.hold("deploy/beside/opened", "opened")
    url = f"{beside.url}/cnai/deploy/beside/opened:v1"
    headers = {"Authorization": CREDENTIAL.basic}

    record = recipes.ask("GET", url, tls=tls, headers=headers)
    readme = recipes.ask("GET", f"{url}/readme", tls=tls, headers=headers)
    part = recipes.ask(
        *("GET", f"{url}/files/model.safetensors"),
        tls=tls,
        headers={**headers, "Range": "bytes=0-7"},
    )

    assert record.status == 200
    assert readme.body == b"# opened\n"
    assert (part.status, len(part.body)) == (206, 8)


@pytest.mark.parametrize("authorization", [None, WRONG.basic], ids=["no login", "wrong password"])
def test_beside_registry_without_a_right_login_asks_for_basic(
    beside: Beside, tls: Tls, authorization: str | None
) -> None:
    beside.hold("deploy/beside/refused", "refused")
    headers = {"Authorization": authorization} if authorization else {}

    url = f"{beside.url}/cnai/deploy/beside/refused:v1/readme"
    refused = recipes.ask("GET", url, tls=tls, headers=headers)

    assert refused.status == 401
    assert refused.headers["www-authenticate"].startswith("Basic ")
    assert b"UNAUTHORIZED" in refused.body


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz", "/"])
def test_beside_registry_what_else_the_proxy_has_stays_inside(
    beside: Beside, tls: Tls, path: str
) -> None:
    answer = recipes.ask("GET", f"{beside.url}{path}", tls=tls)

    assert answer.status == 404
    assert "x-request-id" not in answer.headers


@pytest.mark.parametrize("forged", [{}, _FORGED], ids=["plain", "forged"])
def test_C3_beside_registry_access_line_has_the_clients_address(
    beside: Beside, tls: Tls, forged: dict[str, str]
) -> None:
    path = f"deploy/beside/client-{len(forged)}"

    recipes.ask("GET", f"{beside.url}/cnai/{path}:v1", tls=tls, headers=forged, source=_STRANGER)

    assert _logged(beside, path)["client"] == _STRANGER


def test_C3_beside_registry_forged_headers_of_a_stranger_change_nothing(beside: Beside) -> None:
    name = "deploy/beside/forged"
    beside.hold(name, "forged")
    url = f"{beside.proxy.url}/cnai/{name}:v1"
    headers = {"Authorization": CREDENTIAL.basic}

    plain = recipes.ask("GET", url, headers=headers, source=_STRANGER)
    forged = recipes.ask("GET", url, headers={**headers, **_FORGED}, source=_STRANGER)

    ours = {"date", "x-request-id"}
    assert forged.status == plain.status == 200
    assert forged.body == plain.body
    assert {k: v for k, v in forged.headers.items() if k not in ours} == {
        k: v for k, v in plain.headers.items() if k not in ours
    }
    assert b"evil.example" not in forged.body
    lines = recipes.access_lines(beside.proxy)
    clients = [line["client"] for line in lines if line.get("repository") == name]
    assert clients == [_STRANGER] * 2


def test_beside_registry_login_page_asks_and_leads_back(beside: Beside, tls: Tls) -> None:
    url = f"{beside.url}/cnai/-/login"

    asked = recipes.ask("GET", url, tls=tls)
    back = recipes.ask(
        *("GET", f"{url}?return=/cnai/deploy/beside/opened:v1"),
        tls=tls,
        headers={"Authorization": CREDENTIAL.basic},
    )

    assert asked.status == 401
    assert asked.headers["www-authenticate"].startswith("Basic ")
    assert back.status == 303
    location = back.headers["location"].removeprefix(beside.url)
    assert location == "/cnai/deploy/beside/opened:v1"


def test_beside_registry_login_page_leads_to_no_other_place(beside: Beside, tls: Tls) -> None:
    back = recipes.ask(
        *("GET", f"{beside.url}/cnai/-/login?return=//evil.example/"),
        tls=tls,
        headers={"Authorization": CREDENTIAL.basic, **_FORGED},
    )

    assert back.status == 303
    assert back.headers["location"].removeprefix(beside.url) == "/cnai/"
