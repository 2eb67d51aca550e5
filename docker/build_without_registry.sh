#!/usr/bin/env bash
# Builds the image where no registry can be reached: the base is made of Debian's packages in place of python:3.11-slim.
# Needs root and the Debian packages buildah, crun and debootstrap; 20 GB of disk. From the repository root:
#   docker/build_without_registry.sh                 PyTorch as PyPI has it: CUDA
#   TORCH_BACKEND=cpu docker/build_without_registry.sh
# A worker in it: `buildah run --isolation chroot $(buildah from --pull-never localhost/foreclick) -- foreclick worker`.
set -euo pipefail
BASE=docker.io/library/python:3.11-slim
CERTIFICATES=/etc/ssl/certs/ca-certificates.crt
export BUILDAH_ISOLATION=chroot

if ! buildah images --quiet "$BASE" >/dev/null 2>&1; then
  folder=$(mktemp --directory)
  container=$(buildah from scratch)
  trap 'rm -rf "$folder"; buildah rm "$container" >/dev/null' EXIT
  # Debian 12 has Python 3.11, the version of the image.
  debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates bookworm "$folder"
  cp "$CERTIFICATES" "$folder$CERTIFICATES" # those of this machine, which a proxy may need
  buildah add --quiet "$container" "$folder" /
  buildah config --env PIP_BREAK_SYSTEM_PACKAGES=1 --env PIP_CERT=$CERTIFICATES --env SSL_CERT_FILE=$CERTIFICATES "$container"
  buildah commit --quiet "$container" "$BASE"
fi
buildah build --pull-never --build-arg TORCH_BACKEND="${TORCH_BACKEND:-}" --file docker/Dockerfile --target worker \
  --tag localhost/foreclick .
