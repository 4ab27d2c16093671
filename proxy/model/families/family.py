"""The form of a family: data only, so that settings can declare one as well as we can."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from proxy.model.artifact import LayerClass


@dataclass(frozen=True, slots=True)
class LayerRule:
    """Layer media types of one shape, lower case and without parameters.

    The groups of ``pattern``: ``token`` names the class by way of ``classes``; ``container`` is a
    tar if it reads ``tar``, else one raw file; ``compression``, where present, is gzip or zstd.
    """

    pattern: re.Pattern[str]
    classes: Mapping[str, LayerClass]


@dataclass(frozen=True, slots=True)
class Family:
    """A packaging convention: how its manifests are known and its layers read.

    Annotation keys are in order of trust: the first one present counts.
    """

    name: str
    artifact_types: frozenset[str]
    config_types: frozenset[str]
    layer_rules: tuple[LayerRule, ...]
    path_annotations: tuple[str, ...]
    metadata_annotations: tuple[str, ...]
