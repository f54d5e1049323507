"""A disk that is full, for the tests of sinks."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@pytest.fixture
def files_of_at_most():
    """`with files_of_at_most(size_bytes)`: no file can grow beyond it, as on a full disk."""
    return _files_of_at_most


@contextmanager
def _files_of_at_most(size_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
