# One image for every process; compose.yaml and the Procfile say which command each runs.
# An exact version; docs/security.md says how to pin its digest.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
FROM ${PYTHON_IMAGE}

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /app
COPY requirements.txt ./
RUN pip install --require-hashes --requirement requirements.txt
# processors/store/sql has a link to it.
COPY schema.sql ./
COPY processors ./processors
COPY receiver ./receiver

RUN useradd --system --no-create-home mirror
USER mirror

EXPOSE 8000
# The shell replaces itself, so that SIGTERM reaches the process. The flags are those of the Procfile.
CMD ["sh", "-c", "exec uvicorn receiver.app:create_app --factory --workers 1 --host 0.0.0.0 --port ${PORT:-8000} --http receiver.protocol:BoundedProtocol --no-proxy-headers --no-server-header --no-access-log --backlog 128 --timeout-keep-alive 95 --timeout-graceful-shutdown 12"]
