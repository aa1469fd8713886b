# Redis, an S3 store and Prometheus for the tests, where no registry can be reached. Built by tests/deploy/images.py.
ARG BASE
FROM ${BASE}
COPY tools/s3server /opt/tools/s3server
COPY tests/deploy/s3_service.sh /usr/local/bin/s3-service
RUN mkdir -p /data && chown redis:redis /data
ENTRYPOINT ["s3-service"]
