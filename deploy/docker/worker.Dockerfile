# The worker's image. Build it from the root of the repository:
#
#   docker build -f deploy/docker/worker.Dockerfile -t batch-renderer-worker:cpu .
#   docker build -f deploy/docker/worker.Dockerfile -t batch-renderer-worker:cuda --build-arg FLAVOUR=cuda .
#   docker build -f deploy/docker/worker.Dockerfile -t batch-renderer-worker:cpu-build --build-arg EXTRAS=engines .
#
# FLAVOUR      cpu or cuda
# BASE         a Debian with python3 (3.11 to 3.13) and its venv module; by digest in production
# EXTRAS       extras of pyproject.toml beside cpu or gpu, as the flavour says; comma-separated. With `engines` the image
#              also runs `engines build`
# TORCH        the torch to install
# TORCH_INDEX  the package index that torch comes from (default: torch's own CPU index, or pip's index for cuda);
#              `pip` stands for the index that pip is configured with
ARG BASE=docker.io/library/python:3.12-slim-bookworm
ARG FLAVOUR=cpu

# What has to be installed, as a list: later stages depend on the list alone, not on the rest of pyproject.toml.
FROM ${BASE} AS requirements
ARG FLAVOUR
ARG EXTRAS=
COPY deploy/docker/requirements.py pyproject.toml /source/
RUN case "${FLAVOUR}" in cpu) usual=cpu ;; cuda) usual=gpu ;; \
      *) echo "FLAVOUR is ${FLAVOUR}: it must be cpu or cuda" >&2; exit 1 ;; esac \
    && python3 /source/requirements.py /source/pyproject.toml "${EXTRAS},${usual}" > /requirements.txt

FROM ${BASE} AS build
ARG FLAVOUR
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=
# pip stands beside the environment, so that no image carries it.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/venv
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PYTHON=/opt/venv/bin/python
# torch by itself first: the package index serves the CUDA build, which is ten times as large.
RUN index="${TORCH_INDEX}" \
    && if [ -z "${index}" ] && [ "${FLAVOUR}" = cpu ]; then index=https://download.pytorch.org/whl/cpu; fi \
    && case "${index}" in ''|pip) set -- ;; *) set -- --index-url "${index}" ;; esac \
    && /opt/pip/bin/pip install --no-compile "$@" "${TORCH}"
COPY --from=requirements /requirements.txt /source/requirements.txt
RUN /opt/pip/bin/pip install --no-compile -r /source/requirements.txt
COPY deploy/docker/slim.py /source/
RUN site="$(echo /opt/venv/lib/python3*/site-packages)" \
    && case "${FLAVOUR}" in cpu) set -- --without-headers ;; *) set -- ;; esac \
    && /opt/venv/bin/python /source/slim.py "${site}" "$@" \
    && found="$(find "${site}" -path "${site}/nvidia*" -o -path "${site}/triton" -o -name 'libcud*.so*')" \
    && if [ "${FLAVOUR}" = cpu ] && [ -n "${found}" ]; then \
         echo "this torch brings CUDA libraries: set TORCH or TORCH_INDEX to a CPU build" >&2; exit 1; fi
# .dockerignore lets in what is installed, and nothing else.
COPY . /source/
RUN /opt/pip/bin/pip install --no-compile --no-deps /source \
    && site="$(echo /opt/venv/lib/python3*/site-packages)" \
    && cp /source/deploy/docker/container_start.py "${site}" && echo 'import container_start' > "${site}/container_start.pth" \
    && mkdir /opt/render && cp /source/deploy/docker/healthcheck.py /opt/render/ \
    && /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash "${site}/container_start.py" \
       "${site}/jobs" "${site}/producer" "${site}/engines" "${site}/worker"

FROM ${BASE}
ARG FLAVOUR
ARG EXTRAS=
# No compiler on a CPU. For a GPU, Triton builds the launcher of a kernel that a set lacks with gcc, and looks for
# libcuda with `file`; g++ is for `engines build --backend inductor`.
# hadolint ignore=DL3008
RUN if [ "${FLAVOUR}" = cuda ]; then \
      case "${EXTRAS}" in *engines*) set -- g++ ;; *) set -- ;; esac; \
      if [ ! -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]; \
        then set -- "$@" libpython3-dev; fi; \
      apt-get update && apt-get install -y --no-install-recommends file gcc libc6-dev "$@" \
      && rm -rf /var/lib/apt/lists/*; \
    fi
RUN echo 'render:x:10001:10001:batch-renderer:/cache/home:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'render:x:10001:' >> /etc/group \
    && mkdir -p /work /sets /cache && chown 10001:10001 /cache /sets && chmod 1777 /cache /sets
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/render /opt/render
# One writable mount, /cache; everything else works on a read-only file system.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 USER=render \
    HOME=/cache/home XDG_CACHE_HOME=/cache/xdg TMPDIR=/cache/tmp \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TRITON_CACHE_DIR=/cache/triton TORCHINDUCTOR_CACHE_DIR=/cache/inductor CUDA_CACHE_PATH=/cache/cuda \
    RENDER_ENGINE_DIR=/sets/current RENDER_METRICS_HOST=0.0.0.0 RENDER_METRICS_PORT=9807
WORKDIR /work
USER 10001:10001
EXPOSE 9807
STOPSIGNAL SIGTERM
# /healthz is 200 while engines load: what is 503 is only mended by a new start.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-I", "/opt/render/healthcheck.py", "RENDER_METRICS_PORT"]
# One process a GPU, and celery itself is process 1: SIGTERM reaches it, and nothing else.
ENTRYPOINT ["celery", "-A", "worker", "worker", "--concurrency", "1"]
ARG BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="batch-renderer worker" \
      org.opencontainers.image.description="Renders jobs of Stable Diffusion 1.5 with ControlNet-Canny (${FLAVOUR})" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
