"""Files that oras, podman or aikit pushed as an artifact without a model's types.

Charts, signatures and lists of components have the same shape, so only what holds a file with the
name of weights is taken for a model, and never what is known to be something else.
Source: image-spec v1.1, "Guidelines for Artifact Usage"; oras, "Artifact concepts".
"""

from __future__ import annotations

from proxy.model.artifact import LayerClass
from proxy.model.families.family import TITLE, Family, is_of_type, layer_rule
from proxy.oci.manifest import Descriptor, Manifest, normalise_media_type

# Configs that say nothing: the artifact type, if any, has to.
_NO_CONFIGS = frozenset(
    (
        "application/vnd.oci.empty.v1+json",
        "application/vnd.unknown.config.v1+json",
        "application/x-mlmodel",
    )
)
DENIED_TYPES = frozenset(
    (
        "application/vnd.cncf.helm.*",
        "application/vnd.dev.cosign.*",
        "application/vnd.dev.sigstore.*",
        "application/vnd.in-toto*",
        "application/vnd.cyclonedx*",
        "application/spdx*",
        "text/spdx*",
        "application/vnd.syft*",
        "*sbom*",
        "application/sarif*",
        "application/vnd.wasm.*",
        "application/vnd.module.wasm.*",
        "application/wasm",
        "application/vnd.cncf.flux.*",
        "application/vnd.cncf.notary.*",
        "application/vnd.cncf.openpolicyagent.*",
    )
)
_WEIGHT_NAMES = (
    *(".safetensors", ".gguf", ".ggml", ".onnx", ".pt", ".pth", ".h5", ".keras", ".tflite", ".pb"),
    *(".ckpt", ".pkl", ".joblib", ".mlmodel", ".npz", ".llamafile", ".dduf", ".pte", ".engine"),
)
# A smaller .bin may be anything.
_BIN_BYTES = 1024 * 1024


def holds_weights(manifest: Manifest) -> bool:
    """Whether an artifact without a model's types is one by the names of its files."""
    types = [normalise_media_type(manifest.artifact_type or "")]
    if manifest.config is not None:
        types.append(manifest.config.media_type)
    if any(is_of_type(text, DENIED_TYPES) for text in types):
        return False
    is_artifact = bool(types[0]) or manifest.config is None or types[1] in _NO_CONFIGS
    return is_artifact and any(_is_weight(descriptor) for descriptor in manifest.layers)


def _is_weight(descriptor: Descriptor) -> bool:
    title = descriptor.annotations.get(TITLE, "").lower()
    return title.endswith(_WEIGHT_NAMES) or (
        title.endswith(".bin") and descriptor.size >= _BIN_BYTES
    )


GENERIC = Family(
    name="generic",
    artifact_types=frozenset(),
    config_types=frozenset(),
    # oras calls a single raw file a tar: no type is believed.
    layer_rules=(layer_rule("*", LayerClass.OTHER, trusted=False),),
    path_annotations=(TITLE,),
    own_layer_types=False,
    accepts=holds_weights,
)
