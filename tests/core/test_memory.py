"""What a process holds while it keeps freed memory, and after."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import re
from pathlib import Path
import torch
from rosepo_core.engine.memory import kept_memory

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

def grown_after_use():
    block = torch.ones(64, 2**20)
    assert resident() - before > 250
    del block
    return resident() - before

before = resident()
outside = grown_after_use()
with kept_memory():
    inside = grown_after_use()
print(outside, inside, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has its own ways")
def test_freed_memory_is_kept_inside_and_goes_back_after():
    """256 MiB, written to and freed, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    outside, inside, after = map(int, done.stdout.split())
    assert outside < 100
    assert inside > 250
    assert after < 100
