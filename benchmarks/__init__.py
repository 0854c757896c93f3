"""Measurements that are run by hand. Nothing here is part of the service."""
