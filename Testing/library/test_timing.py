"""Where the time goes."""

import subprocess
import sys
import time

import numpy as np
import pytest

from GaborSegLib.timing import Timer, peak_mib, profile_table


def test_a_timer_adds_up_the_seconds_of_a_stage_even_if_it_fails():
    timer = Timer()
    for _ in range(2):
        with timer("Sleeping"):
            time.sleep(0.05)
    with pytest.raises(ValueError), timer("Failing"):
        raise ValueError
    assert list(timer.seconds) == ["Sleeping", "Failing"]
    assert 0.1 <= timer.seconds["Sleeping"] < 5
    assert timer.total == pytest.approx(sum(timer.seconds.values()))


@pytest.mark.skipif(peak_mib() is None, reason="this system does not tell the memory of a process")
def test_the_peak_is_this_processs_own():
    """A child of a large process starts small, and 64 MiB that are written to and given back stay counted."""
    ballast = np.ones(300 * 2**17)
    code = (
        "from GaborSegLib.timing import peak_mib; before = peak_mib(); bytearray(b'1') * 2**26; "
        "print(before, peak_mib())"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    before, after = map(float, output.split())
    assert 62 < after - before < 80
    assert before < 60 or sys.platform != "linux"
    assert peak_mib() > ballast.nbytes / 2**20


def rows(text):
    lines = [line.split("  ") for line in text.splitlines() if not line.startswith("-")]
    return {words[0]: [word.strip() for word in words[1:] if word.strip()] for words in lines}


def test_the_table_adds_up():
    start, first, second = Timer(), Timer(), Timer()
    start.add("Importing", 1.0, 100.0)
    first.add("Network", 2.0, 300.0)
    second.add("Network", 4.0, 310.0)
    table = rows(profile_table(start, [first, second], 8.0))
    assert table["Importing"] == ["1.00", "12.5%", "100"]
    assert table["Network"] == ["6.00", "75.0%", "310"]
    assert table["Rest"] == ["1.00", "12.5%"]
    assert table["Total"][:2] == ["8.00", "100.0%"]
