"""Stores behind URIs: files, S3 and http, with one access policy and one retry."""
