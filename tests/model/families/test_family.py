from __future__ import annotations

import re

from proxy.model.artifact import LayerClass
from proxy.model.families import recognise
from proxy.model.families.family import Family, LayerRule
from proxy.oci.manifest import Manifest, decode
from tests.build import descriptor, manifest_bytes


def test_family_declared_as_data_is_recognised() -> None:
    pattern = re.compile(
        r"application/vnd\.acme\.(?P<token>[a-z]+)\.(?P<container>tar|raw)"
        r"(?:\+(?P<compression>gzip|zstd))?"
    )
    acme = Family(
        name="acme",
        artifact_types=frozenset(("application/vnd.acme.model",)),
        config_types=frozenset(),
        layer_rules=(LayerRule(pattern, {"net": LayerClass.WEIGHT}),),
        path_annotations=("acme.path",),
        metadata_annotations=(),
    )
    layer = descriptor("application/vnd.acme.net.tar+zstd", b"x", annotations={"acme.path": "net"})
    manifest = decode(manifest_bytes([layer], artifact_type="application/vnd.acme.model"))
    assert isinstance(manifest, Manifest)
    artifact = recognise(manifest, (acme,))
    assert artifact is not None
    assert artifact.family == "acme"
    assert artifact.layers[0].layer_class is LayerClass.WEIGHT
    assert str(artifact.layers[0].packing) == "tar+zstd"
    assert artifact.layers[0].path == "net"
