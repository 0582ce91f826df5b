"""Writes hub/settings.json: what huggingface_hub makes of environment variables.

    python make_hub_goldens.py

Each case runs in a process with only the variables it names and HOME=/home/me.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

CASES = [
    {},
    {"HF_HOME": "~/hf"},
    {"HF_HOME": "$HOME/hf"},
    {"HF_HOME": "${HOME}/hf"},
    {"HF_HOME": "$NOT_SET/hf"},
    {"HF_HOME": "${HOME/hf"},
    {"HF_HOME": "/a/$"},
    {"HF_HOME": "/a/~"},
    {"HF_HOME": "~"},
    {"HF_HOME": "~no_such_user_at_all/hf"},
    {"HF_HOME": "/data", "SUB": "x", "HF_HUB_CACHE": "$HF_HOME/$SUB-$SUB"},
    {"XDG_CACHE_HOME": "~/caches"},
    {"XDG_CACHE_HOME": "/caches", "HF_HOME": "/hf"},
    {"HF_HUB_CACHE": "~/hub"},
    {"HUGGINGFACE_HUB_CACHE": "~/old"},
    {"HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "/new"},
    {"HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/hf"},
    {"TRANSFORMERS_CACHE": "/older"},
    {"PYTORCH_TRANSFORMERS_CACHE": "/oldest"},
    {"HF_TOKEN": "hf_a"},
    {"HF_TOKEN": " hf_a\r\n"},
    {"HF_TOKEN": " ", "HUGGING_FACE_HUB_TOKEN": "hf_b"},
    {"HF_TOKEN": "", "HUGGING_FACE_HUB_TOKEN": "hf_b"},
    {"HUGGING_FACE_HUB_TOKEN": "hf_b"},
    {"HF_TOKEN": "hf_a", "HUGGING_FACE_HUB_TOKEN": "hf_b"},
    {"HF_TOKEN": "hf_a", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"},
    {"HF_TOKEN": "hf_a", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0"},
    *({"HF_HUB_OFFLINE": value} for value in ["1", "on", "Yes", "TRUE", "0", "off", "", "2", " 1", "y"]),
    {"TRANSFORMERS_OFFLINE": "1"},
    {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"},
    {"HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": "1"},
    {"HF_ENDPOINT": "https://mirror.example//"},
    {"HF_HUB_ETAG_TIMEOUT": "3"},
    {"HF_HUB_ETAG_TIMEOUT": " 3 "},
    {"HF_HUB_ETAG_TIMEOUT": "0"},
    {"HF_HUB_DOWNLOAD_TIMEOUT": "120"},
    {"HF_HUB_DISABLE_SYMLINKS": "yes"},
    {"HF_HUB_DISABLE_PROGRESS_BARS": "1"},
    {"HF_HUB_DISABLE_PROGRESS_BARS": "0"},
]

PROGRAM = """
import json
from huggingface_hub import constants as c
from huggingface_hub.utils import get_token
token = None if c.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
print(json.dumps({
    "cache_dir": c.HF_HUB_CACHE, "token_path": c.HF_TOKEN_PATH, "token": token, "endpoint": c.ENDPOINT,
    "offline": c.HF_HUB_OFFLINE, "etag_timeout": c.HF_HUB_ETAG_TIMEOUT,
    "download_timeout": c.HF_HUB_DOWNLOAD_TIMEOUT, "disable_symlinks": c.HF_HUB_DISABLE_SYMLINKS,
    "disable_progress_bars": bool(c.HF_HUB_DISABLE_PROGRESS_BARS),
}))
"""


def settings(variables: dict[str, str]) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        environment = {"HOME": "/home/me", **variables}
        run = [sys.executable, "-c", PROGRAM]
        output = subprocess.run(run, env=environment, cwd=folder, capture_output=True, check=True).stdout
    return json.loads(output)


if __name__ == "__main__":
    rows = [json.dumps({"variables": case, "settings": settings(case)}) for case in CASES]
    path = pathlib.Path(__file__).parent / "hub" / "settings.json"
    path.write_text("[\n" + ",\n".join(rows) + "\n]\n")
