"""Checks of a release: one file a kind, run together, watched for a while. For the phases."""
