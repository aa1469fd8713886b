"""Programs for developers: the demo, an embedded Redis, an S3 server, chaos, fuzzing."""
