"""``cnai-proxy demo``: a registry of sample models, the proxy before it, and what to try next."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from proxy.running import RunningProxy, embedded_registry, serving
from proxy.samples import Sample, write_samples
from proxy.settings import Settings


async def run_demo(
    settings: Settings, stay: Callable[[RunningProxy, str], Awaitable[None]]
) -> None:
    """Serve the samples from a folder that is gone afterwards, until ``stay`` returns.

    ``stay`` gets the running proxy and the address of the registry behind it.
    """
    with tempfile.TemporaryDirectory(prefix="cnai-proxy-demo-") as folder:
        async with embedded_registry(Path(folder)) as (url, layout):
            samples = await write_samples(layout)
            async with serving(settings.with_upstream(url)) as proxy:
                sys.stdout.write(f"cnai-proxy ready on {proxy.url}\n\n")
                sys.stdout.write(_invitation(proxy.url, samples))
                sys.stdout.flush()
                await stay(proxy, url)


def _invitation(url: str, samples: list[Sample]) -> str:
    registry = url.partition("//")[2]
    names = "\n".join(f"  {sample.reference:<24} {sample.description}" for sample in samples)
    first = samples[0].reference
    second = samples[1].reference
    return f"""\
Sample models in the registry behind the proxy:
{names}

Open a model without pulling it:
  curl {url}/cnai/{first}
  curl {url}/cnai/{first}/readme
  curl {url}/cnai/{second}/files
  curl {url}/cnai/{second}/files/config.json
  curl -r 0-7 {url}/cnai/{first}/files/model.safetensors | od -t u8

Use the proxy as the registry it stands before:
  skopeo inspect --raw --tls-verify=false docker://{registry}/{first}
  skopeo copy --src-tls-verify=false docker://{registry}/{first} dir:tiny-llama
  oras copy --from-plain-http {registry}/{first} --to-oci-layout tiny-llama:v1

Ctrl-C ends the demo; nothing is kept.
"""
