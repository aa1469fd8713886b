# The producer's image: every `producer` command, and `producer keep`, without torch, numpy and OpenCV. Build it from the
# root of the repository:
#
#   docker build -f deploy/docker/producer.Dockerfile -t batch-renderer-producer .
#
# BASE  a Debian with python3 (3.11 to 3.13) and its venv module; by digest in production
ARG BASE=docker.io/library/python:3.12-slim-bookworm

FROM ${BASE} AS requirements
COPY deploy/docker/requirements.py pyproject.toml /source/
RUN python3 /source/requirements.py /source/pyproject.toml > /requirements.txt

FROM ${BASE} AS build
# pip stands beside the environment, so that no image carries it.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/venv
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PYTHON=/opt/venv/bin/python
COPY --from=requirements /requirements.txt /source/requirements.txt
RUN /opt/pip/bin/pip install --no-compile -r /source/requirements.txt
COPY deploy/docker/slim.py /source/
RUN /opt/venv/bin/python /source/slim.py "$(echo /opt/venv/lib/python3*/site-packages)"
# .dockerignore lets in what is installed, and nothing else.
COPY . /source/
RUN /opt/pip/bin/pip install --no-compile --no-deps /source \
    && site="$(echo /opt/venv/lib/python3*/site-packages)" \
    && cp /source/deploy/docker/container_start.py "${site}" && echo 'import container_start' > "${site}/container_start.pth" \
    && mkdir /opt/render && cp /source/deploy/docker/healthcheck.py /opt/render/ \
    && /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash "${site}/container_start.py" \
       "${site}/jobs" "${site}/producer" "${site}/engines" "${site}/worker"

FROM ${BASE}
RUN echo 'render:x:10001:10001:batch-renderer:/cache/home:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'render:x:10001:' >> /etc/group \
    && mkdir -p /work /cache && chown 10001:10001 /cache && chmod 1777 /cache
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/render /opt/render
# One writable mount, /cache; everything else works on a read-only file system.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 USER=render \
    HOME=/cache/home XDG_CACHE_HOME=/cache/xdg TMPDIR=/cache/tmp \
    RENDER_KEEP_HOST=0.0.0.0 RENDER_KEEP_PORT=9808
WORKDIR /work
USER 10001:10001
EXPOSE 9808
STOPSIGNAL SIGTERM
# For `producer keep`, which serves /healthz. Other commands end by themselves and need no check.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-I", "/opt/render/healthcheck.py", "RENDER_KEEP_PORT"]
ENTRYPOINT ["producer"]
ARG BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="batch-renderer producer" \
      org.opencontainers.image.description="Queues the rows of a CSV, watches over batches and shows their results" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
