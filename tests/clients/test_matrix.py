"""Every cell of the README's table of clients, done in earnest before every kind of registry."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.clients import matrix
from tests.clients.conftest import StartClient
from tests.clients.drivers import Place, Refused, place_in
from tests.clients.matrix import ROWS, Registry, Route
from tests.components import content
from tests.components.registries import CREDENTIAL, WRONG, Gateway, Proxied
from tests.components.tokens import TokenService

_README = Path(__file__).parent.parent.parent / "README.md"
# What refuses a mirror's client sends it on to the registry that is mirrored.
_MIRRORS = ("docker-mirror", "podman-mirror", "ctr-mirror")
# Those with a command that says at once whether a login is right.
_WITH_LOGIN_COMMAND = ("docker", "podman", "skopeo", "oras")
_WRONG_PASSWORD = (
    r"(?i)unauthorized|authentication required|access denied|incorrect|invalid username|\b401\b"
)


def _cells() -> Iterator[object]:
    for key, row in ROWS.items():
        for route, cell in row.cells.items():
            for registry in Registry:
                if cell.pulls or cell.pushes:
                    yield pytest.param(key, registry, route, id=f"{key}-{registry}-{route.name}")


@pytest.fixture
def place(request: pytest.FixtureRequest, registry: Registry, route: Route) -> Place:
    """Where the client of a cell is sent."""
    if route is not Route.SOLE:
        return place_in(request.getfixturevalue("gateway"), registry, route)
    fixture = {
        Registry.PUBLIC: "proxied",
        Registry.HTPASSWD: "proxied_htpasswd",
        Registry.TOKEN: "proxied_token",
    }[registry]
    proxied = request.getfixturevalue(fixture)
    assert isinstance(proxied, Proxied)
    return Place(proxied, proxied.host, wants_login=registry is not Registry.PUBLIC)


@pytest.mark.parametrize(("key", "registry", "route"), [*_cells()])
def test_client_does_what_the_table_says(
    key: str, registry: Registry, route: Route, place: Place, start_client: StartClient
) -> None:
    cell = ROWS[key].cells[route]
    repository = f"matrix/{key}-{registry}-{route.name.lower()}"
    artifact = content.container(repository)
    place.store(repository, artifact)
    client = start_client(key, place)
    if place.wants_login:
        if key not in _MIRRORS:
            with pytest.raises(Refused):
                client.pull(repository)
        client.login(CREDENTIAL)

    assert client.pull(repository) == str(artifact.digest)

    if cell.pushes:
        pushed = f"{repository}-pushed"
        digest = client.push(pushed)
        assert place.stored(pushed) == digest
        assert place.proxied.written(pushed, prefix=place.prefix)["PUT"] >= 1


@pytest.mark.parametrize("registry", [Registry.HTPASSWD, Registry.TOKEN])
@pytest.mark.parametrize("key", _WITH_LOGIN_COMMAND)
def test_login_by_host_with_a_wrong_password_fails(
    key: str, registry: Registry, gateway: Gateway, start_client: StartClient
) -> None:
    client = start_client(key, place_in(gateway, registry, Route.HOST))

    with pytest.raises(Refused, match=_WRONG_PASSWORD):
        client.login(WRONG)


# Several registries behind one address -----------------------------------------------------------


@pytest.mark.parametrize("key", _WITH_LOGIN_COMMAND)
def test_login_with_a_wrong_password_fails_where_one_registry_wants_a_login(
    key: str, mixed: Gateway, start_client: StartClient
) -> None:
    client = start_client(key, place_in(mixed, "token", Route.PREFIX))

    with pytest.raises(Refused, match=_WRONG_PASSWORD):
        client.login(WRONG)


@pytest.mark.parametrize("registry", [Registry.HTPASSWD, Registry.TOKEN])
@pytest.mark.parametrize("key", _WITH_LOGIN_COMMAND)
def test_wrong_password_shows_with_the_first_pull_where_several_registries_want_a_login(
    key: str, registry: Registry, gateway: Gateway, start_client: StartClient
) -> None:
    place = place_in(gateway, registry, Route.PREFIX)
    repository = f"wrong/{key}-{registry}"
    place.store(repository, content.container(repository))
    client = start_client(key, place)

    client.login(WRONG)

    with pytest.raises(Refused, match=_WRONG_PASSWORD):
        client.pull(repository)


@pytest.mark.parametrize("has_login", [False, True], ids=["no login", "login"])
@pytest.mark.parametrize("key", ["docker", "podman", "skopeo", "oras", "ctr"])
def test_one_session_pulls_from_an_open_registry_and_from_one_with_logins(
    key: str, has_login: bool, mixed: Gateway, tokens: TokenService, start_client: StartClient
) -> None:
    suffix = f"{key}-{'login' if has_login else 'no-login'}"
    names = {
        "public": f"mixed/{suffix}",
        "token": f"public/mixed-{suffix}",
    }
    for upstream, repository in names.items():
        place = place_in(mixed, upstream, Route.PREFIX)
        artifact = content.container(f"{upstream} of {suffix}")
        place.store(repository, artifact)
        client = start_client(key, place)
        if has_login:
            client.login(CREDENTIAL)
        assert client.pull(repository) == str(artifact.digest)
    guarded = place_in(mixed, "token", Route.PREFIX)
    private = content.container(f"private of {suffix}")
    guarded.store(f"private/{suffix}", private)
    client = start_client(key, guarded)

    if has_login:
        client.login(CREDENTIAL)
        assert client.pull(f"private/{suffix}") == str(private.digest)
    else:
        with pytest.raises(Refused):
            client.pull(f"private/{suffix}")
    assert tokens.asked_for(names["public"]) == []


@pytest.mark.parametrize("key", ["podman", "skopeo"])
def test_login_for_a_prefix_alone_is_used_there_and_nowhere_else(
    key: str, gateway: Gateway, start_client: StartClient
) -> None:
    token, basic = (place_in(gateway, name, Route.PREFIX) for name in ("token", "htpasswd"))
    artifact = content.container(f"scoped {key}")
    for place in (token, basic):
        place.store(f"scoped/{key}", artifact)
    prefixed = replace(token, host=f"{token.host}/{token.prefix}", prefix="")

    start_client(key, prefixed).login(CREDENTIAL)

    assert start_client(key, token).pull(f"scoped/{key}") == str(artifact.digest)
    with pytest.raises(Refused):
        start_client(key, basic).pull(f"scoped/{key}")


@pytest.mark.parametrize("key", ["docker", "podman", "skopeo", "oras", "ctr"])
def test_one_session_with_one_login_pulls_from_all_registries_behind_prefixes(
    key: str, gateway: Gateway, start_client: StartClient
) -> None:
    start_client(key, place_in(gateway, "public", Route.PREFIX)).login(CREDENTIAL)
    for name in gateway.upstreams:
        place = place_in(gateway, name, Route.PREFIX)
        artifact = content.container(f"{name} of session {key}")
        place.store(f"session/{key}", artifact)
        client = start_client(key, place)
        if key == "ctr":  # keeps no login
            client.login(CREDENTIAL)

        assert client.pull(f"session/{key}") == str(artifact.digest)


@pytest.mark.parametrize("route", [Route.PREFIX, Route.HOST])
@pytest.mark.parametrize("key", ["docker", "ctr"])
def test_client_of_a_token_service_with_oauth2_pulls_and_pushes(
    key: str,
    route: Route,
    gateway: Gateway,
    oauth2_tokens: TokenService,
    start_client: StartClient,
) -> None:
    place = place_in(gateway, "oauth2", route)
    repository = f"oauth2/{key}-{route.name.lower()}"
    artifact = content.container(repository)
    place.store(repository, artifact)
    client = start_client(key, place)

    client.login(CREDENTIAL)

    assert client.pull(repository) == str(artifact.digest)
    assert client.push(f"{repository}-pushed") == place.stored(f"{repository}-pushed")
    asked = oauth2_tokens.asked_for(repository)
    assert {exchange.status for exchange in asked} == {200}
    assert all(exchange.had_authorization or exchange.method == "POST" for exchange in asked)


@pytest.mark.parametrize("key", ["docker", "podman", "ctr"])
def test_B9_token_service_is_asked_for_the_upstreams_own_names_and_no_more(
    key: str, gateway: Gateway, tokens: TokenService, start_client: StartClient
) -> None:
    place = place_in(gateway, "token", Route.PREFIX)
    repository = f"scopes/{key}"
    place.store(repository, content.container(repository))
    client = start_client(key, place)
    client.login(CREDENTIAL)
    before = len(tokens.exchanges)

    client.pull(repository)

    scopes = {scope for exchange in tokens.exchanges[before:] for scope in exchange.scopes}
    assert scopes == {f"repository:{repository}:pull"}


# The table ---------------------------------------------------------------------------------------


def test_readme_shows_exactly_this_table() -> None:
    found = re.search(
        r"^## Clients\n.*?<!-- clients -->\n(.*?)<!-- clients -->\n",
        _README.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )

    assert found is not None
    assert found[1] == matrix.table(), "README.md: run python -m tests.clients.matrix"
