# All in one: API, worker and an embedded server in one container, for one machine.
#   docker build -t ml-service:latest .
#   docker run -d --name ml-service -p 127.0.0.1:8001:8001 -e ML_AUTH=off -e MODEL_CACHE_DIR=/app/models ml-service:latest
# Without ML_AUTH=off it starts, and waits for the first API key:
#   docker exec ml-service python -m api keys create --name me --scope admin
ARG BASE=python:3.11-slim

# Stands for a folder of wheels that are preferred to the index: --build-context wheels=FOLDER
FROM scratch AS wheels

FROM ${BASE} AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1
# A base without Python (nvidia/cuda, debian) gets its distribution's own, which must be 3.11 or later. The folders are
# made here so that a fresh volume mounted on one belongs to the service's user.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl \
    && { command -v python3 >/dev/null || apt-get install -y --no-install-recommends python3; } \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --home-dir /app --no-create-home --shell /usr/sbin/nologin app \
    && install -d -o app -g app /app/models /app/.cache /app/.locks /app/data /app/payloads


# What installs packages stays out of the images. Byte code has no times in it, so that the same lock gives the same files;
# some packages have files that are for later Pythons, and are passed over.
FROM base AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ONLY_BINARY=:all:
WORKDIR /build
COPY requirements/tools.txt ./
RUN { python3 -c 'import ensurepip' 2>/dev/null \
        || { apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*; }; } \
    && python3 -m venv /opt/tools \
    && /opt/tools/bin/pip install --no-compile --no-deps --require-hashes -r tools.txt \
    && python3 -m venv --without-pip /opt/venv \
    && echo /opt/torch > "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch.pth"
ENV PATH=/opt/tools/bin:$PATH \
    PIP_PYTHON=/opt/venv/bin/python


# Torch comes alone: it is most of the image and changes least. TORCH=cuda is PyPI's build, locked with its CUDA
# libraries; it runs without a GPU too. TORCH=cpu makes an image a quarter of the size: of an index of CPU builds in
# TORCH_INDEX_URL, or of a wheel in the context `wheels`. Those builds are pinned and not hashed, since each index has its
# own; +cpu keeps pip from taking CUDA's by mistake.
FROM build AS torch
ARG TORCH=cuda
ARG TORCH_INDEX_URL=""
COPY requirements/torch.txt ./
RUN --mount=type=bind,from=wheels,target=/wheels \
    case "$TORCH${TORCH_INDEX_URL:+ of an index}" in \
        cpu | "cpu of an index") set -- --no-deps --find-links /wheels torch==2.13.0+cpu torchvision==0.28.0 ;; \
        cuda) set -- --no-deps --require-hashes -r torch.txt ;; \
        "cuda of an index") set -- torch==2.13.0 torchvision==0.28.0 ;; \
        *) echo "TORCH is cpu or cuda, not $TORCH" >&2; exit 1 ;; \
    esac \
    && pip install --no-compile --target /opt/torch ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "$@" \
    && { python -m compileall -qq -j 0 --invalidation-mode unchecked-hash /opt/torch || :; }


FROM build AS packages
COPY requirements/all-in-one.txt ./
COPY client/pyproject.toml ./client/
# Of the client only its name, version and command; its code is copied below.
RUN --mount=type=bind,from=torch,source=/opt/torch,target=/opt/torch \
    pip install --no-compile --no-deps --require-hashes -r all-in-one.txt \
    && touch client/README.md \
    && PIP_PYTHON=/opt/tools/bin/python pip wheel --no-deps --no-build-isolation -w client ./client \
    && pip install --no-compile --no-deps --no-index client/*.whl \
    && pip check \
    && { python -m compileall -qq -j 0 --invalidation-mode unchecked-hash /opt/venv/lib || :; } \
    && cyclonedx-py environment --output-reproducible -o /opt/venv/sbom.cdx.json /opt/venv/bin/python


FROM base
COPY --from=torch /opt/torch /opt/torch
COPY --from=packages /opt/venv /opt/venv
# The embedded server's wheel is for x86_64; elsewhere `ml-service up` takes the distribution's server.
RUN if [ "$(uname -m)" != x86_64 ]; then \
        apt-get update && apt-get install -y --no-install-recommends redis-server && rm -rf /var/lib/apt/lists/*; \
    fi
WORKDIR /app
COPY shared ./shared
COPY worker ./worker
COPY api ./api
COPY local ./local
COPY client/ml_service_client ./ml_service_client
COPY examples ./examples
COPY models.yaml ./
RUN python -m compileall -q --invalidation-mode unchecked-hash . \
    && printf '#!/bin/sh\nexec python -m local serve\n' > /opt/venv/bin/serve && chmod 755 /opt/venv/bin/serve
ENV MODEL_CACHE_DIR=/app/models \
    XDG_CACHE_HOME=/app/.cache \
    HF_HOME=/app/.cache/huggingface \
    TORCH_HOME=/app/.cache/torch \
    ML_LOCK_DIR=/app/.locks \
    ML_DATA_DIR=/app/data \
    ML_HOST=0.0.0.0
ARG REVISION=""
LABEL org.opencontainers.image.revision=$REVISION
USER 10001:10001
EXPOSE 8001
HEALTHCHECK --interval=30s --timeout=10s --start-period=600s --start-interval=2s --retries=3 \
    CMD ["sh", "-c", "curl -f http://localhost:8001/health || curl -f http://localhost:${SAGEMAKER_BIND_TO_PORT:-${AIP_HTTP_PORT:-8080}}/health"]
# `docker run IMAGE serve` is how SageMaker starts a model container: on port 8080, with the files in /opt/ml/model.
CMD ["ml-service", "up"]
