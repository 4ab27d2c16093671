"""``deploy/kubernetes.yaml``: what it promises, held against Dockerfile, settings and the proxy."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import MappingProxyType

import pytest
import yaml

from proxy import __version__, settings
from tests.components import content, registries
from tests.components.programs import require, run
from tests.components.registries import CREDENTIAL, Server
from tests.components.tokens import TokenService
from tests.deploy import recipes

_DOCKERFILE = (recipes.FOLDER.parent / "Dockerfile").read_text(encoding="utf-8")
_OBJECTS = list(yaml.safe_load_all(recipes.read("kubernetes.yaml", {})))


def _object(kind: str) -> dict[str, object]:
    found = [each for each in _OBJECTS if each["kind"] == kind]
    assert len(found) == 1
    assert isinstance(found[0], dict)
    return found[0]


def _at(node: object, path: str) -> object:
    """The value at a path of keys and numbers, as in ``spec.containers.0.name``."""
    for part in path.split("."):
        if isinstance(node, list):
            node = node[int(part)]
        else:
            assert isinstance(node, dict), path
            node = node[part]
    return node


def _pod(path: str) -> object:
    return _at(_object("Deployment"), f"spec.template.spec.{path}")


def _container(path: str) -> object:
    return _pod(f"containers.0.{path}")


def _settings_text() -> str:
    found = _at(_object("ConfigMap"), "data")
    assert isinstance(found, dict)
    assert list(found) == ["config.yaml"]
    return str(found["config.yaml"])


def _settings_here(folder: Path) -> str:
    """The ConfigMap's settings with the Secret's files in ``folder``."""
    registries.htpasswd_auth(folder)
    (folder / "registry-password").write_text(f"{CREDENTIAL.password}\n")
    return _settings_text().replace("/etc/cnai-proxy/", f"{folder}/")


def test_kubernetes_has_these_objects_and_names_no_namespace() -> None:
    assert [each["kind"] for each in _OBJECTS] == ["ConfigMap", "Deployment", "Service"]
    assert all("namespace" not in each["metadata"] for each in _OBJECTS)
    assert {each["metadata"]["name"] for each in _OBJECTS} == {"cnai-proxy"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("automountServiceAccountToken", False),
        ("enableServiceLinks", False),
        ("securityContext.runAsNonRoot", True),
        ("securityContext.seccompProfile.type", "RuntimeDefault"),
        ("containers.0.securityContext.allowPrivilegeEscalation", False),
        ("containers.0.securityContext.readOnlyRootFilesystem", True),
        ("containers.0.securityContext.capabilities", {"drop": ["ALL"]}),
    ],
)
def test_kubernetes_pod_has_no_rights(path: str, value: object) -> None:
    assert _pod(path) == value
    for forbidden in ("hostNetwork", "hostPID", "hostIPC"):
        assert forbidden not in str(_pod("containers.0"))
        assert forbidden not in str(_at(_object("Deployment"), "spec.template.spec"))


def test_kubernetes_pod_runs_as_the_dockerfile_says() -> None:
    user = re.search(r"^USER (\d+):(\d+)$", _DOCKERFILE, re.MULTILINE)
    assert user is not None
    assert (_pod("securityContext.runAsUser"), _pod("securityContext.runAsGroup")) == (
        int(user[1]),
        int(user[2]),
    )
    # The Secret's files are root's and its group's: the group is ours.
    assert _pod("securityContext.fsGroup") == int(user[2])
    assert 'ENTRYPOINT ["cnai-proxy"]' in _DOCKERFILE
    assert _container("args") == ["serve", "--config", "/etc/cnai-proxy/config.yaml"]


def test_kubernetes_image_has_the_version_of_this_project() -> None:
    assert str(_container("image")).endswith(f"/cnai-proxy:{__version__}")


def test_kubernetes_mounts_what_settings_name_and_a_tmp() -> None:
    mounts = _container("volumeMounts")
    volumes = _pod("volumes")
    assert isinstance(mounts, list)
    assert isinstance(volumes, list)
    assert [(each["name"], each["mountPath"]) for each in mounts] == [
        ("settings", "/etc/cnai-proxy"),
        ("tmp", "/tmp"),
    ]
    assert [each["name"] for each in volumes] == ["settings", "tmp"]
    assert _at(volumes, "0.projected.defaultMode") == 0o440
    assert _at(volumes, "0.projected.sources") == [
        {"configMap": {"name": "cnai-proxy"}},
        {"secret": {"name": "cnai-proxy"}},
    ]
    assert "emptyDir" in volumes[1]


def test_kubernetes_secret_is_only_referred_to() -> None:
    text = recipes.read("kubernetes.yaml", {})
    assert "kind: Secret" not in text
    files = re.findall(r"--from-file=(\S+)", text)
    assert sorted(files) == sorted(set(re.findall(r": /etc/cnai-proxy/(\S+)", _settings_text())))


def test_kubernetes_grace_is_longer_than_pause_and_drain(tmp_path: Path) -> None:
    found = settings.load(
        file=_written(tmp_path, _settings_here(tmp_path)), environment={}, flags={}
    )
    pause = _container("lifecycle.preStop.exec.command")
    assert isinstance(pause, list)
    assert pause[0] == "sleep"
    grace = _pod("terminationGracePeriodSeconds")
    assert isinstance(grace, int)
    assert grace > int(pause[1]) + found.listen.drain_seconds


def test_kubernetes_every_port_is_the_one_of_the_settings(tmp_path: Path) -> None:
    found = settings.load(
        file=_written(tmp_path, _settings_here(tmp_path)), environment={}, flags={}
    )
    assert found.listen.host == "0.0.0.0"
    assert _container("ports") == [{"name": "http", "containerPort": found.listen.port}]
    assert _at(_object("Service"), "spec.ports") == [
        {"name": "http", "port": 80, "targetPort": "http"}
    ]
    for probe in ("livenessProbe", "readinessProbe"):
        assert _container(f"{probe}.httpGet.port") == "http"


def test_kubernetes_selectors_find_the_pods() -> None:
    labels = _at(_object("Deployment"), "spec.template.metadata.labels")
    assert _at(_object("Deployment"), "spec.selector.matchLabels") == labels
    assert _at(_object("Service"), "spec.selector") == labels
    assert _pod("topologySpreadConstraints.0.labelSelector.matchLabels") == labels


def test_kubernetes_resources_are_bounded() -> None:
    for kind in ("requests", "limits"):
        found = _container(f"resources.{kind}")
        assert isinstance(found, dict)
        assert sorted(found) == ["cpu", "memory"]


def test_kubernetes_rolls_out_without_a_gap() -> None:
    deployment = _object("Deployment")
    assert _at(deployment, "spec.replicas") == 2
    assert _at(deployment, "spec.strategy.rollingUpdate") == {"maxUnavailable": 0, "maxSurge": 1}


def test_kubernetes_settings_pass_the_check(tmp_path: Path) -> None:
    config = _written(tmp_path, _settings_here(tmp_path))

    done = run([sys.executable, "-m", "proxy", "check", "--config", config], env=_CLUSTER)

    assert CREDENTIAL.password not in done.out + done.err


def test_kubernetes_settings_without_the_secret_are_refused(tmp_path: Path) -> None:
    config = _written(tmp_path, _settings_text().replace("/etc/cnai-proxy/", f"{tmp_path}/"))

    done = run([sys.executable, "-m", "proxy", "check", "--config", config], check=False)

    assert done.code == 2
    assert "upstreams.0.credentials" in done.err
    assert "listen.auth.htpasswd" in done.err


# What a pod's environment has because of a Service with this name, were enableServiceLinks on.
_CLUSTER = MappingProxyType(
    {
        "CNAI_PROXY_SERVICE_HOST": "10.96.0.7",
        "CNAI_PROXY_SERVICE_PORT": "80",
        "CNAI_PROXY_SERVICE_PORT_HTTP": "80",
        "CNAI_PROXY_PORT": "tcp://10.96.0.7:80",
        "CNAI_PROXY_PORT_80_TCP_ADDR": "10.96.0.7",
    }
)


def test_kubernetes_settings_serve_probes_and_logged_in_callers(
    guarded_registry: Server, tokens: TokenService, tmp_path: Path
) -> None:
    model = content.model_pack("in a cluster")
    headers = content.login(guarded_registry.url, "deploy/kubernetes", CREDENTIAL)
    content.push(guarded_registry.url, "deploy/kubernetes", "v1", model, headers=headers)
    document = yaml.safe_load(_settings_here(tmp_path))
    document["upstreams"][0] |= {
        "url": guarded_registry.url,
        "auth_hosts": [tokens.origin],
        # An account on plain HTTP has to be asked for; the recipe's registry has TLS.
        "tls": {"insecure": True},
    }
    login = {"Authorization": CREDENTIAL.basic}
    with registries.proxy(tmp_path, "--host", "127.0.0.1", settings=document) as server:
        for probe in ("livenessProbe", "readinessProbe"):
            path = _container(f"{probe}.httpGet.path")
            assert recipes.ask("GET", f"{server.url}{path}").status == 200
        url = f"{server.url}/cnai/deploy/kubernetes:v1/readme"
        opened = recipes.ask("GET", url, headers=login)
        refused = recipes.ask("GET", url)
        written = recipes.ask(
            "POST", f"{server.url}/v2/deploy/kubernetes/blobs/uploads/", headers=login
        )
        run(
            [
                *(require("skopeo"), "copy", "--src-creds", CREDENTIAL.pair),
                *("--src-tls-verify=false", f"docker://{server.host}/deploy/kubernetes:v1"),
                f"dir:{tmp_path}/pulled",
            ]
        )

    assert (opened.status, opened.body) == (200, b"# in a cluster\n")
    assert (refused.status, written.status) == (401, 405)
    assert (tmp_path / "pulled" / "manifest.json").read_bytes() == model.manifest
    assert CREDENTIAL.password not in server.log.read_text()


def _written(folder: Path, text: str) -> Path:
    file = folder / "config.yaml"
    file.write_text(text)
    return file
