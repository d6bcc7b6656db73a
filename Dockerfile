# The suite with all that it needs.
#   docker build -t ablate .
#   docker run --rm -v "$PWD:/project" ablate run quick --out results/quick
#   docker run --rm --entrypoint make ablate -C /suite test
# For GPUs the same image with `--gpus all`: PyTorch brings CUDA along. Another base image, with Python 3.11 or newer or with
# apt's Python: --build-arg BASE=nvidia/cuda:12.8.1-base-ubuntu24.04
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1
# hadolint ignore=DL3008 # the base image decides the versions of apt's packages
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git make \
    && (command -v python3 || apt-get install --yes --no-install-recommends python3-dev python3-venv) \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /suite
COPY . .
RUN make setup
ENV PATH=/suite/.venv/bin:$PATH XDG_CACHE_HOME=/project/.cache
WORKDIR /project
ENTRYPOINT ["ablate"]
