"""Texts that come with a model: the README, the licence, pretty JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from proxy.samples.weights import Tensor, parameters


def pretty(document: object) -> bytes:
    """JSON as people write it."""
    return (json.dumps(document, indent=2) + "\n").encode()


def readme(
    reference: str,
    *,
    title: str,
    task: str,
    shape: str,
    tensors: Sequence[Tensor],
    packing: str,
    weights: str,
) -> bytes:
    """The model card; its commands name ``reference``, the other texts fill its table."""
    name = reference.partition("/")[2].partition(":")[0]
    dtypes = ", ".join(sorted({tensor.dtype for tensor in tensors}))
    return f"""---
license: apache-2.0
language:
  - en
pipeline_tag: {task}
tags:
  - sample
  - random-weights
---

# {title}

A **sample** that comes with the demo. Its weights are random: it has the files, the headers and
the layout of a real model, and it knows nothing. Use it to look around, not to ask it questions.

## At a glance

| | |
|---|---|
| Shape | {shape} |
| Parameters | {parameters(tensors):,} in {len(tensors)} tensors |
| Types | {dtypes} |
| Task | {task} |
| Packing | {packing} |
| Licence | Apache-2.0 |

## What is inside

- `{weights}` — the weights
- `config.json` — the architecture, as training code writes it
- `tokenizer.json` — a vocabulary of a few hundred tokens that really tokenizes
- `LICENSE`, and this `README.md`

## Try it

Set `PROXY` to the address the demo printed, for example `http://127.0.0.1:8080`.

```sh
curl $PROXY/cnai/{reference}                    # what the proxy knows of this model
curl $PROXY/cnai/{reference}/files              # its files, without pulling a layer
curl -O $PROXY/cnai/{reference}/files/{weights}
oras pull --plain-http ${{PROXY#http://}}/{reference}
```

## Limits

There is no training data, no evaluation and no intended use for `{name}` beyond trying out a
registry. Whatever it generates is noise.
""".encode()


def licence() -> bytes:
    """A short notice of the Apache License, version 2.0."""
    return b"""SPDX-License-Identifier: Apache-2.0

This sample model is made by cnai-proxy and comes with it.

You may use, change and pass on its files under the terms of the Apache License, version 2.0,
whose full text is at https://www.apache.org/licenses/LICENSE-2.0. They are given as they are,
without a warranty of any kind.
"""
