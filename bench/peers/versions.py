#!/usr/bin/env python3
"""Prints the versions of the named packages as one JSON object; null where one is missing."""

import json
import platform
import sys
from importlib import metadata


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


print(json.dumps({"python": platform.python_version()} | {p: version(p) for p in sys.argv[1:]}))
