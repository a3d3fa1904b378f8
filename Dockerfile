# CPU image in which the demo runs: docker build -t sage . && docker run --rm sage
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends make=4.3-4.1 \
    && rm -rf /var/lib/apt/lists/*

# The default build of torch brings several GB of CUDA libraries. To avoid them, give pip the index of torch's CPU
# builds: --build-arg PIP_ARGS="--extra-index-url ..."
ARG PIP_ARGS=""
WORKDIR /sage
COPY requirements.txt ./
# hadolint ignore=DL3042,SC2086
RUN python -m venv .venv \
    && .venv/bin/pip install --no-cache-dir ${PIP_ARGS} -r requirements.txt \
    && touch .venv/.run

COPY . .
# The copied requirements must not look newer than what was installed from them.
RUN touch .venv/.run
CMD ["make", "demo"]
