"""Each client of the matrix with the same three verbs, and the places they are sent to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from proxy.oci.digest import Digest
from tests import build
from tests.clients.matrix import Registry, Route
from tests.components import content
from tests.components.engines import Containerd, Docker, Podman
from tests.components.programs import Ran, require, run
from tests.components.registries import CREDENTIAL, Gateway, Proxied
from tests.components.tokens import Credential

# A name that only a mirror can serve.
_MIRRORED = "mirrored.test"
_HUB_LOGIN = "https://index.docker.io/v1/"
# The host itself leads nowhere, so that what comes can only come from the mirror.
_HOSTS = """\
server = "http://127.0.0.1:1"
[host."http://{host}{path}"]
  capabilities = ["pull", "resolve", "push"]
  override_path = {overrides}
"""


class Refused(Exception):
    """A client ended with an error; its words."""


@dataclass(frozen=True, slots=True)
class Place:
    """A registry behind the proxy and what a client has to write to reach it there."""

    proxied: Proxied
    host: str
    prefix: str = ""
    namespace: str = "sole.test"
    wants_login: bool = True

    def name(self, repository: str) -> str:
        """``repository`` as clients write it."""
        return "/".join(filter(None, (self.host, self.prefix, repository)))

    def store(self, repository: str, artifact: content.Artifact) -> None:
        """Put ``artifact`` into the registry itself, past the proxy."""
        content.push(
            self.proxied.upstream.url, repository, "v1", artifact, headers=self._headers(repository)
        )

    def stored(self, repository: str) -> str:
        """The digest that the registry itself has."""
        return content.stored_digest(
            self.proxied.upstream.url, repository, "v1", headers=self._headers(repository)
        )

    def _headers(self, repository: str) -> Mapping[str, str]:
        if not self.wants_login:
            return {}
        return content.login(self.proxied.upstream.url, repository, CREDENTIAL)


def place_in(gateway: Gateway, name: str, route: Route) -> Place:
    """The upstream ``name`` of ``gateway``, reached by ``route``."""
    return Place(
        gateway.proxied(name),
        gateway.host_of(name) if route is Route.HOST else gateway.host,
        prefix=name if route is Route.PREFIX else "",
        namespace=f"{name}.test",
        wants_login=name != Registry.PUBLIC,
    )


class Client(Protocol):
    """A client that is sent to one place; every verb raises ``Refused``."""

    def login(self, credential: Credential) -> None:
        """Log in at the place, by the client's own command where it has one."""

    def pull(self, repository: str) -> str:
        """Pull ``repository:v1`` and return the digest of what came."""

    def push(self, repository: str) -> str:
        """Push something to ``repository:v1`` and return its digest."""


def _done(ran: Ran) -> Ran:
    if ran.code != 0:
        raise Refused(f"{ran.out}{ran.err}")
    return ran


def _archive(folder: Path, text: str) -> Path:
    file = folder / "root.tar"
    file.write_bytes(build.tar_archive({"pushed.txt": text.encode()}))
    return file


@dataclass(frozen=True, slots=True)
class DockerClient:
    """docker, its logins in ``folder``."""

    place: Place
    docker: Docker
    folder: Path

    def login(self, credential: Credential) -> None:
        words = ("login", "-u", credential.username, "--password-stdin", self.place.host)
        _done(self._docker(*words, text=credential.password))

    def pull(self, repository: str) -> str:
        return self._pulled(f"{self.place.name(repository)}:v1")

    def push(self, repository: str) -> str:
        name = f"{self.place.name(repository)}:v1"
        _done(self._docker("import", str(_archive(self.folder, name)), name))
        found = re.search(r"digest: (sha256:[0-9a-f]{64})", _done(self._docker("push", name)).out)
        assert found is not None
        return found[1]

    def _pulled(self, name: str) -> str:
        _done(self._docker("pull", name))
        found = self._docker("image", "inspect", "--format={{index .RepoDigests 0}}", name)
        return found.out.strip().partition("@")[2]

    def _docker(self, *words: str, text: str | None = None) -> Ran:
        return self.docker.with_login_file(self.folder)(*words, text=text, check=False)


@dataclass(frozen=True, slots=True)
class DockerMirrorClient(DockerClient):
    """docker that pulls Docker Hub's names from the place, with the login it has for Docker Hub."""

    def login(self, credential: Credential) -> None:
        # "docker login" itself would ask Docker Hub.
        login = {"auth": credential.basic.removeprefix("Basic ")}
        (self.folder / "config.json").write_text(json.dumps({"auths": {_HUB_LOGIN: login}}))

    def pull(self, repository: str) -> str:
        with self.docker.mirror(f"http://{self.place.host}"):
            return self._pulled(f"docker.io/{repository}:v1")


@dataclass(frozen=True, slots=True)
class PodmanClient:
    """podman."""

    place: Place
    podman: Podman
    folder: Path

    def login(self, credential: Credential) -> None:
        words = ("login", "--tls-verify=false", "-u", credential.username, "--password-stdin")
        _done(self.podman(*words, self.place.host, text=credential.password, check=False))

    def pull(self, repository: str) -> str:
        return self._pulled(f"{self.place.name(repository)}:v1", "--tls-verify=false")

    def push(self, repository: str) -> str:
        name = f"{self.place.name(repository)}:v1"
        digest = self.folder / "digest"
        self.podman("import", str(_archive(self.folder, name)), name)
        words = ("push", "--tls-verify=false", "--digestfile", str(digest), name)
        _done(self.podman(*words, check=False))
        return digest.read_text()

    def _pulled(self, name: str, *options: str) -> str:
        _done(self.podman("pull", *options, name, check=False))
        return str(json.loads(self.podman("inspect", "--type=image", name).out)[0]["Digest"])


@dataclass(frozen=True, slots=True)
class PodmanMirrorClient(PodmanClient):
    """podman that pulls an invented host's names from the place."""

    def pull(self, repository: str) -> str:
        location = "/".join(filter(None, (self.place.host, self.place.prefix)))
        self.podman.mirror(_MIRRORED, location)
        return self._pulled(f"{_MIRRORED}/{repository}:v1")


@dataclass(frozen=True, slots=True)
class SkopeoClient:
    """skopeo: copies out to a folder, and the same back in."""

    place: Place
    folder: Path

    def login(self, credential: Credential) -> None:
        words = ("login", "--tls-verify=false", "-u", credential.username, "--password-stdin")
        _done(self._skopeo(*words, self.place.host, text=credential.password))

    def pull(self, repository: str) -> str:
        source = f"docker://{self.place.name(repository)}:v1"
        _done(self._skopeo("copy", "--src-tls-verify=false", source, f"dir:{self.folder}/copied"))
        return self._digest()

    def push(self, repository: str) -> str:
        target = f"docker://{self.place.name(repository)}:v1"
        _done(self._skopeo("copy", "--dest-tls-verify=false", f"dir:{self.folder}/copied", target))
        return self._digest()

    def _digest(self) -> str:
        return str(Digest.of((self.folder / "copied" / "manifest.json").read_bytes()))

    def _skopeo(self, *words: str, text: str | None = None) -> Ran:
        env = {"REGISTRY_AUTH_FILE": str(self.folder / "auth.json")}
        return run([require("skopeo"), *words], env=env, text=text, check=False)


@dataclass(frozen=True, slots=True)
class OrasClient:
    """oras: copies out to a layout, and the same back in."""

    place: Place
    folder: Path

    def login(self, credential: Credential) -> None:
        words = ("login", "--plain-http", "-u", credential.username, "--password-stdin")
        _done(self._oras(*words, self.place.host, text=credential.password))

    def pull(self, repository: str) -> str:
        layout = ("--to-oci-layout", f"{self.folder}/layout:v1")
        return self._copied("--from-plain-http", f"{self.place.name(repository)}:v1", *layout)

    def push(self, repository: str) -> str:
        layout = ("--from-oci-layout", f"{self.folder}/layout:v1")
        return self._copied("--to-plain-http", *layout, f"{self.place.name(repository)}:v1")

    def _copied(self, *words: str) -> str:
        found = re.search(r"Digest: (\S+)", _done(self._oras("copy", *words)).out)
        assert found is not None
        return found[1]

    def _oras(self, *words: str, text: str | None = None) -> Ran:
        env = {"DOCKER_CONFIG": str(self.folder)}
        return run([require("oras"), *words], env=env, text=text, check=False)


@dataclass(slots=True)
class CtrClient:
    """ctr: fetches content, and pushes what it holds; its login goes with each command."""

    place: Place
    containerd: Containerd
    space: str
    options: tuple[str, ...] = ("--plain-http",)
    _login: tuple[str, ...] = ()
    _held: str = ""

    def login(self, credential: Credential) -> None:
        self._login = ("--user", credential.pair)

    def pull(self, repository: str) -> str:
        name = f"{self._name(repository)}:v1"
        self._ctr("content", "fetch", name)
        self._held = name
        return self._digest(name)

    def push(self, repository: str) -> str:
        self._ctr("images", "push", f"{self._name(repository)}:v1", self._held)
        return self._digest(self._held)

    def _name(self, repository: str) -> str:
        return self.place.name(repository)

    def _digest(self, name: str) -> str:
        listed = self.containerd(self.space, "images", "list", f"name=={name}").out
        found = re.search(r"sha256:[0-9a-f]{64}", listed)
        assert found is not None, listed
        return found[0]

    def _ctr(self, group: str, verb: str, *words: str) -> None:
        options = (*self.options, *self._login)
        _done(self.containerd(self.space, group, verb, *options, *words, check=False))


class CtrMirrorClient(CtrClient):
    """ctr that goes for an invented host's names to the place, with ``ns`` on every request."""

    def _name(self, repository: str) -> str:
        return f"{self.place.namespace}/{repository}"


def ctr_mirror(place: Place, containerd: Containerd, space: str, folder: Path) -> CtrMirrorClient:
    """ctr with a ``hosts.toml`` in ``folder`` for the place's namespace."""
    path = f"/v2/{place.prefix}" if place.prefix else ""
    hosts = folder / place.namespace / "hosts.toml"
    hosts.parent.mkdir()
    overrides = "true" if place.prefix else "false"
    hosts.write_text(_HOSTS.format(host=place.host, path=path, overrides=overrides))
    return CtrMirrorClient(place, containerd, space, ("--hosts-dir", str(folder)))
