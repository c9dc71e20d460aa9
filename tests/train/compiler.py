"""Whether this machine can compile graphs."""

from __future__ import annotations

import shutil

import pytest

HAS_COMPILER = shutil.which("g++") is not None
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")
