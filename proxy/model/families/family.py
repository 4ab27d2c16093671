"""The form of a family: data only, so that settings can declare one as well as we can."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from proxy.model.artifact import LayerClass, Packing
from proxy.oci.manifest import Manifest

# RFC 6838, "Naming Requirements": 127 characters on both sides of the slash. A longer type is none.
TYPE_LENGTH_LIMIT = 255

# What a file is called, with or without its directories.
TITLE = "org.opencontainers.image.title"
# oras says by it that a layer is a directory as tar+gzip, whatever its type.
ORAS_UNPACK = "io.deis.oras.content.unpack"


@dataclass(frozen=True, slots=True)
class LayerRule:
    """Layer media types of one shape, lower case and without parameters.

    The groups of ``pattern``, each of which may be missing: ``token`` names the class by way of
    ``classes``; ``container`` is a tar if it reads ``tar``, else one raw file; ``compression`` is
    gzip or zstd. ``layer_class`` and ``packing``, where set, stand for those groups; a class that
    neither gives is unknown. ``name`` is that of a layer without a path: several are numbered as
    ``LICENSE``, ``LICENSE-2``, or if they are ``sharded`` as ``model-00001-of-00002.gguf``.
    """

    pattern: re.Pattern[str]
    classes: Mapping[str, LayerClass] = field(default_factory=dict)
    layer_class: LayerClass | None = None
    packing: Packing | None = None
    trusted: bool = True
    name: str | None = None
    sharded: bool = False


@dataclass(frozen=True, slots=True)
class LayerName:
    """What a config tells of one layer; the fields are those of ``ModelLayer``."""

    path: str | None
    member_prefix: str | None
    description: str | None


@dataclass(frozen=True, slots=True)
class Family:
    """A packaging convention: how its manifests are known and its layers read.

    Types are lower case, exact or with ``*``; annotation keys are exact or end in ``*`` in the two
    kinds of marks. Where a path or metadata may stand is in order of trust: the first one present
    counts. Paths come from annotations, then from members of the descriptor, then from parameters
    of its media type; where they are ``absolute_paths``, a leading slash is nothing odd.

    ``own_layer_types``: a layer of one of the rules is enough to be of this family. ``marks``
    are keys of the manifest's or any layer's annotations that are enough too; only layers with
    one of ``layer_marks``, if there are any, are the model's; where no weights are among those,
    the marks were lost on the way, and of the other layers what lies below ``root`` is the
    model's. ``accepts`` is asked last of all. ``class_annotations`` give a class by the value
    ``true``, ``unpack_annotations`` say by it that the layer is a tar+gzip.
    ``names_from_config`` gives names by the layer's number in the manifest; such a family has
    no ``layer_marks``.
    """

    name: str
    artifact_types: frozenset[str]
    config_types: frozenset[str]
    layer_rules: tuple[LayerRule, ...]
    path_annotations: tuple[str, ...] = (TITLE,)
    metadata_annotations: tuple[str, ...] = ()
    path_members: tuple[str, ...] = ()
    path_parameters: tuple[str, ...] = ()
    absolute_paths: bool = False
    own_layer_types: bool = True
    marks: tuple[str, ...] = ()
    layer_marks: tuple[str, ...] = ()
    root: str | None = None
    class_annotations: Mapping[str, LayerClass] = field(default_factory=dict)
    unpack_annotations: tuple[str, ...] = (ORAS_UNPACK,)
    accepts: Callable[[Manifest], bool] | None = None
    names_from_config: (
        Callable[[Manifest, Mapping[str, object]], Mapping[int, LayerName]] | None
    ) = None


@lru_cache(maxsize=1024)
def type_pattern(glob: str) -> re.Pattern[str]:
    """A pattern for media types, exact but for ``*``, which is any text.

    Atomic groups: what matches one piece is never tried anew, so time is linear in the type.
    """
    first, *pieces = (re.escape(piece) for piece in glob.lower().split("*"))
    middle = "".join(f"(?>.*?{piece})" for piece in pieces[:-1])
    return re.compile(f"{first}{middle}.*{pieces[-1]}" if pieces else first, re.DOTALL)


def is_of_type(text: str, types: Iterable[str]) -> bool:
    """Whether ``text``, lower case and without parameters, is one of ``types``."""
    return len(text) <= TYPE_LENGTH_LIMIT and any(
        type_pattern(glob).fullmatch(text) is not None for glob in types
    )


def layer_rule(
    glob: str,
    layer_class: LayerClass | None = None,
    packing: Packing | None = None,
    *,
    trusted: bool = True,
    name: str | None = None,
    sharded: bool = False,
) -> LayerRule:
    """A rule by a media type, exact or with ``*``; without ``packing`` the type's ending tells."""
    return LayerRule(
        type_pattern(glob),
        layer_class=layer_class,
        packing=packing,
        trusted=trusted,
        name=name,
        sharded=sharded,
    )
