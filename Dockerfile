FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY proxy ./proxy
RUN python3 -m venv /opt/cnai-proxy \
 && /opt/cnai-proxy/bin/pip install --no-cache-dir --disable-pip-version-check .

FROM python:3.11-slim
COPY --from=build /opt/cnai-proxy /opt/cnai-proxy
# Nothing is written at run time but to /tmp. The process reaches the outside only if it listens
# on all addresses of its container.
ENV PATH=/opt/cnai-proxy/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    CNAI_PROXY_LISTEN__HOST=0.0.0.0
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080
STOPSIGNAL SIGTERM
# The slim base has no curl. A proxy for outgoing requests is not for this one.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["python3", "-c", \
    "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ.get('CNAI_PROXY_LISTEN__PORT', '8080') + '/livez', timeout=2)"]
ENTRYPOINT ["cnai-proxy"]
CMD ["serve"]
