#!/usr/bin/env bash
# The S3 store of the tests as a container's process: tools/s3server on every address, port 7070, until SIGTERM.
# ROOT_SECRET_KEY is the secret key; the access key is `tester`.
set -euo pipefail
export S3SERVER_SECRET=${ROOT_SECRET_KEY:?} S3SERVER_HOST=0.0.0.0
trap '/opt/tools/s3server stop /srv/s3; exit 0' TERM INT
/opt/tools/s3server start /srv/s3 7070
while :; do sleep 86400 & wait $!; done
