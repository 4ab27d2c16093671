"""Ollama models: a Docker manifest of raw files that are told apart by their types alone.

The config's type is that of every Docker image, so only the layers tell. Tensors and JSON files
have a name in the descriptor, or as a parameter of the media type.
Source: ollama, "server/manifest.go" and "types/model".
"""

from __future__ import annotations

from proxy.model.artifact import RAW, LayerClass
from proxy.model.families.family import Family, LayerRule, layer_rule


def _rule(token: str, layer_class: LayerClass | None, name: str | None = None) -> LayerRule:
    return layer_rule(f"application/vnd.ollama.image.{token}", layer_class, RAW, name=name)


OLLAMA = Family(
    name="ollama",
    artifact_types=frozenset(),
    config_types=frozenset(),
    layer_rules=(
        _rule("model", LayerClass.WEIGHT, "model.gguf"),
        _rule("projector", LayerClass.WEIGHT, "projector.gguf"),
        _rule("adapter", LayerClass.WEIGHT, "adapter.gguf"),
        _rule("draft", LayerClass.WEIGHT, "draft.gguf"),
        _rule("tensor", LayerClass.WEIGHT),
        _rule("embed", LayerClass.WEIGHT),
        _rule("template", LayerClass.CONFIG, "template"),
        _rule("prompt", LayerClass.CONFIG, "template"),  # the older word for it
        _rule("system", LayerClass.CONFIG, "system"),
        _rule("params", LayerClass.CONFIG, "params.json"),
        _rule("messages", LayerClass.CONFIG, "messages.json"),
        _rule("config", LayerClass.CONFIG),
        _rule("json", LayerClass.CONFIG),
        _rule("tokenizer", LayerClass.CONFIG),
        _rule("tokenizer.config", LayerClass.CONFIG),
        _rule("license", LayerClass.DOC, "LICENSE"),
        _rule("*", None),
    ),
    path_members=("name",),
    path_parameters=("name",),
)
