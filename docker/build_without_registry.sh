#!/usr/bin/env bash
# Builds an image where no registry can be reached: the base is made of Debian's packages in place of
# python:3.11-slim. It trusts the certificates of this machine, so the image is for tests here, not for others.
# Needs root, the Debian packages buildah, crun and debootstrap, and 45 GB of disk. From the repository root:
#   docker/build_without_registry.sh          localhost/foreclick, PyTorch as PyPI has it: CUDA
#   docker/build_without_registry.sh train    localhost/foreclick-train
#   TORCH_BACKEND=cpu docker/build_without_registry.sh
# A worker in it:
#   buildah run --isolation chroot $(buildah from --pull-never localhost/foreclick) -- foreclick worker
# buildah keeps what pip fetched for the next build, 6 GB in /var/tmp/buildah-cache.
set -euo pipefail
TARGET=${1:-worker}
case $TARGET in
  worker) IMAGE=localhost/foreclick ;;
  train) IMAGE=localhost/foreclick-train ;;
  *) echo "no target $TARGET: worker or train" >&2 && exit 2 ;;
esac
BASE=localhost/foreclick-base
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
# The format of OCI has no HEALTHCHECK.
buildah build --format docker --pull-never --build-context python:3.11-slim=container-image://$BASE \
  --build-arg TORCH_BACKEND="${TORCH_BACKEND:-}" --file docker/Dockerfile --target "$TARGET" --tag $IMAGE .
