"""Docker Model Runner's own format: raw files, since November 2025 with their paths.

Before that a layer had no path; the names are those that Docker's unpacker makes up.
Source: docker/model-spec, "config.md" and "spec.md".
"""

from __future__ import annotations

from proxy.model.artifact import RAW, TAR, LayerClass
from proxy.model.families.family import Family, layer_rule

_TYPE = "application/vnd.docker.ai."

DOCKER = Family(
    name="docker",
    artifact_types=frozenset(),
    config_types=frozenset((f"{_TYPE}model.config.*",)),
    layer_rules=(
        layer_rule(f"{_TYPE}gguf.v3.mmproj", LayerClass.WEIGHT, RAW, name="model.mmproj"),
        layer_rule(f"{_TYPE}mmproj", LayerClass.WEIGHT, RAW, name="model.mmproj"),
        layer_rule(f"{_TYPE}gguf.v3.lora", LayerClass.WEIGHT, RAW, name="adapter.gguf"),
        layer_rule(f"{_TYPE}gguf.v3", LayerClass.WEIGHT, RAW, name="model.gguf", sharded=True),
        layer_rule(
            f"{_TYPE}safetensors", LayerClass.WEIGHT, RAW, name="model.safetensors", sharded=True
        ),
        layer_rule(f"{_TYPE}dduf", LayerClass.WEIGHT, RAW, name="model.dduf", sharded=True),
        layer_rule(f"{_TYPE}license", LayerClass.DOC, RAW, name="LICENSE"),
        layer_rule(f"{_TYPE}chat.template.jinja", LayerClass.CONFIG, RAW, name="template.jinja"),
        layer_rule(f"{_TYPE}model.file", LayerClass.OTHER, RAW),
        layer_rule(f"{_TYPE}vllm.config.tar", LayerClass.CONFIG, TAR),
        layer_rule(f"{_TYPE}dir.tar", LayerClass.OTHER, TAR),
        layer_rule(f"{_TYPE}*.tar", packing=TAR),
        layer_rule(f"{_TYPE}*", packing=RAW),
    ),
    path_annotations=("org.cncf.model.filepath", "org.opencontainers.image.title"),
    metadata_annotations=("org.cncf.model.file.metadata+json",),
)
