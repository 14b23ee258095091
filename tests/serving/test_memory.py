"""Memory that stays with the process, which is one of its own here."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import json, resource, threading
from anywidth.serving import kept_memory

def faults():
    # Pages that a new thread is given while it takes and frees 64 MB three times, after it did so once.
    def work():
        bytearray(2**26)
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        for _ in range(3):
            bytearray(2**26)
        found.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)
    found = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]

try:
    with kept_memory():
        kept = max(faults() for _ in range(4))
        raise KeyError
except KeyError:
    print(json.dumps([kept, faults()]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_freed_memory_is_used_again_without_asking_the_system():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    kept, given_back = json.loads(done.stdout)
    assert kept < 10
    assert given_back >= 3 * 2**26 // 2**21  # in huge pages; in small ones 512 times as many
