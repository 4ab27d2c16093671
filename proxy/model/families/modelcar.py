"""Modelcars by olot: a bootable image whose marked layers hold the model below ``models/``.

The layers of the base image carry no mark and are none of the model's. Tools that compress layers
on their way (skopeo without ``--preserve-digests``, podman push) drop the marks of the others too.
Source: olot, "docs"; KServe, "Modelcars".
"""

from __future__ import annotations

from proxy.model.artifact import LayerClass
from proxy.model.families.family import Family, layer_rule

_CONTENT = "olot.layer.content.*"

MODELCAR = Family(
    name="modelcar",
    artifact_types=frozenset(),
    config_types=frozenset(),
    layer_rules=(layer_rule("*", LayerClass.OTHER, trusted=False),),
    # The title is only the last part of the path.
    path_annotations=("olot.layer.content.inlayerpath", "org.opencontainers.image.title"),
    absolute_paths=True,
    own_layer_types=False,
    marks=("io.opendatahub.layers.modelcard", _CONTENT),
    layer_marks=(_CONTENT,),
    root="models",
)
