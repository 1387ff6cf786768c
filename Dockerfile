# membrain_cloud as a container image: one recipe, a CPU and a CUDA variant.
#
#   docker build -t membrain-cloud:cpu  --build-arg VARIANT=cpu --secret id=pip.conf,src=pip.conf .
#   docker build -t membrain-cloud:cuda --build-arg VARIANT=cuda .
#
# BASE is any image with Python 3.11 as `python3` (its venv and pip included), ca-certificates and glibc; pin it by
# digest. CUDA comes with torch's own wheels, so that the base needs none: the driver is put in by the NVIDIA container
# toolkit. Which torch wheels pip takes, CPU or CUDA, is up to the package index that pip.conf names
# (docs/deploy/image.md), and the build stops where they are not of VARIANT's kind.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG VARIANT=cpu
ARG EXTRAS=s3,gcs,azure,exchange,kubernetes
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
RUN python3 -m venv /opt/membrain-cloud
WORKDIR /source
COPY pyproject.toml constraints.txt ./
# torch first: a layer of its own, as it is most of the image and changes least.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    /opt/membrain-cloud/bin/python -m pip install --quiet "$(grep '^torch==' constraints.txt)"
COPY README.md LICENSE ./
COPY membrain_cloud membrain_cloud
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    /opt/membrain-cloud/bin/python -m pip install --quiet -c constraints.txt ".[${EXTRAS}]"
# The tool that lists the packages stays out of the image.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python3 -m venv /opt/cyclonedx && /opt/cyclonedx/bin/python -m pip install --quiet -c constraints.txt cyclonedx-bom
COPY deploy/image deploy/image
RUN /opt/membrain-cloud/bin/python deploy/image/finish.py --variant "${VARIANT}" \
    --cyclonedx /opt/cyclonedx/bin/cyclonedx-py

FROM ${BASE} AS image
ARG VARIANT=cpu
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="membrain_cloud" \
      org.opencontainers.image.description="Membranes in cryo-electron tomograms: segmented, meshed, picked and measured" \
      org.opencontainers.image.version="${VERSION}-${VARIANT}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="BSD-3-Clause"
COPY --from=build /opt/membrain-cloud /opt/membrain-cloud
# GKE mounts the driver's libraries at /usr/local/nvidia; elsewhere the container toolkit puts them on the default path.
# Everything that is written goes under /scratch: the rest may be mounted read-only.
ENV PATH=/opt/membrain-cloud/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/scratch \
    USER=membrain \
    TMPDIR=/scratch \
    MPLCONFIGDIR=/scratch/matplotlib \
    NUMBA_CACHE_DIR=/scratch/numba \
    XDG_CACHE_HOME=/scratch/cache \
    MEMBRAIN_CLOUD_CACHE=/scratch/models \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64:/usr/local/nvidia/lib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN mkdir -m 1777 /scratch && echo 'membrain:x:10001:10001::/scratch:/usr/sbin/nologin' >>/etc/passwd
WORKDIR /scratch
VOLUME /scratch
# By number: Kubernetes' runAsNonRoot cannot judge a name. Any other number works too (OpenShift gives its own).
USER 10001:10001
ENTRYPOINT ["membrain-cloud"]
CMD ["--help"]
