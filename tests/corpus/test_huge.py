"""Files of gigabytes, in the memory of small ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.file_indexes import listed

_CLEAN = """
import json, re, sys
from pathlib import Path
from leanpipe.core.report import Silent
from leanpipe.corpus.clean import CleanConfig, CleanInputs, clean

out = Path(sys.argv[2])
out.mkdir()
off = {"quality": {"enabled": False}, "repetition": {"enabled": False}, "execution": {"workers": 1}}
summary = clean.function(CleanConfig.model_validate(off), CleanInputs((Path(sys.argv[1]),)), out, Silent())
# getrusage would answer with the peak of whoever started this process, if that was higher.
peak = re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]
print(json.dumps(summary | {"peak_megabytes": int(peak) / 1e3}))
"""


def test_a_line_of_two_gigabytes_is_skipped_in_flat_memory(tmp_path: Path):
    """The line is a hole in the file, so that only reading it takes time."""
    rows = [
        json.dumps({"text": f"row {number}, and what else there is to say of it"}) for number in range(2000)
    ]
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write("\n".join(rows[:1000]).encode() + b'\n{"text": "')
        file.seek(2_000_000_000, os.SEEK_CUR)
        file.write(b'"}\n' + "\n".join(rows[1000:]).encode())
    listing = listed(path, tmp_path / "listings").path
    command = [sys.executable, "-c", _CLEAN, listing, tmp_path / "out"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["documents_in"] == 2000 and summary["files_or_lines_skipped"] == 1
    assert summary["peak_megabytes"] < 1000
