# BrainWhy as a BIDS App:
#     docker run --rm -v BIDS:/data:ro -v OUT:/out brainwhy /data /out participant
# Everything a run needs is inside, network weights, template and atlases too: it works offline, on a
# read-only root with a writable /tmp, and as any user. See docs/container.md.
FROM debian:bookworm-slim

# Other package indexes, for this build only; on PyTorch's CPU index pip finds a smaller torch.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

# Versions of a Debian release change only to repair it, and the old ones vanish: no pins here.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates mrtrix3 python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv

ENV PATH=/opt/venv/bin:$PATH

# Dependencies, a layer that stays as long as these two files do. Bytecode is kept: a read-only
# root could never cache it.
WORKDIR /opt/brainwhy
COPY pyproject.toml constraints.txt ./
RUN python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' > /tmp/dependencies.txt \
    && pip install --no-cache-dir --constraint constraints.txt --requirement /tmp/dependencies.txt \
    && rm /tmp/dependencies.txt

COPY . .
RUN PIP_CONSTRAINT=constraints.txt pip install --no-cache-dir --no-deps . \
    && brainwhy --version

# HOME=/tmp: any user may write there. Imports come from the environment, never from the folder
# a run starts in or from a home folder.
ENV HOME=/tmp \
    LANG=C.UTF-8 \
    LOGNAME=brainwhy \
    NO_ET=1 \
    PYTHONNOUSERSITE=1 \
    PYTHONSAFEPATH=1

LABEL org.opencontainers.image.title="BrainWhy" \
    org.opencontainers.image.description="A BIDS App that classifies brain scans and shows why; for research, not for diagnosis" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.licenses="Apache-2.0"

WORKDIR /tmp
USER 1000:1000
ENTRYPOINT ["brainwhy"]
