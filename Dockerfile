# syntax=docker/dockerfile:1
# The image of workers and gateways, without what is for a developer's machine only (`local`): no broker, no Java.

# Not the slim one: it has a C compiler, which the core is compiled with.
FROM python:3.13.7-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements.lock ./
# Everything is checked against the lock's hashes here; what follows installs from these wheels alone.
RUN python -m pip wheel --quiet --require-hashes --no-deps --requirement requirements.lock --wheel-dir /wheels
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY schemas schemas
COPY projections projections
COPY streams streams
COPY gateway gateway
COPY audit audit
COPY tidegate tidegate
RUN python -m venv /build \
    && /build/bin/python -m pip install --quiet --no-index /wheels/*.whl \
    && COMPILE_TIDEGATE=1 /build/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels .
# Only what workers and gateways need is taken from the wheels: no linters, no tests, no Java.
RUN python -m venv /opt/tidegate \
    && /opt/tidegate/bin/python -m pip install --quiet --no-index --find-links /wheels 'tidegate[gateway]' \
    && /opt/tidegate/bin/python -m compileall -q /opt/tidegate/lib \
    && /opt/tidegate/bin/tidegate --version

FROM python:3.13.7-slim-bookworm AS gate
RUN useradd --system --uid 10001 --home-dir /var/lib/tidegate --create-home --shell /usr/sbin/nologin tidegate
COPY --from=build /opt/tidegate /opt/tidegate
ENV PATH=/opt/tidegate/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TIDEGATE_STATE_DIR=/var/lib/tidegate \
    TIDEGATE_METRICS_HOST=0.0.0.0 \
    TIDEGATE_METRICS_PORT=9464 \
    TIDEGATE_LOG_FORMAT=json
USER 10001
WORKDIR /var/lib/tidegate
EXPOSE 9464
# Alive, not ready: a worker that restores for minutes is healthy.
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['TIDEGATE_METRICS_PORT'] + '/healthz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tidegate"]
CMD ["worker"]

# For `tidegate traffic`, to watch a gate under load: docker-compose.yml builds it by name.
FROM gate AS traffic
COPY local /opt/tidegate/local
ENV PYTHONPATH=/opt/tidegate

FROM gate
