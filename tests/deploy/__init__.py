"""Tests of deploy/: images, Compose, Kubernetes and monitoring."""
