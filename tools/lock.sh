#!/usr/bin/env bash
# Writes the lock files anew: requirements/*.txt and the Vercel CLI's package-lock.json.
#
#   tools/lock.sh [--upgrade]
#
# Needs `uv` and `npm`. One lock serves Python 3.11 to 3.13 on every platform; every file carries its
# hash, and no lock names the host it was fetched from, so that a mirror serves as well.
set -euo pipefail
cd "$(dirname "$0")/.."

lock=(uv pip compile --quiet --universal --python-version 3.11 --generate-hashes
  --no-emit-index-url --no-header --extra sandbox "$@" pyproject.toml)
"${lock[@]}" --output-file requirements/runtime.txt
"${lock[@]}" --group dev --constraint requirements/runtime.txt --output-file requirements/dev.txt

npm --prefix tools/vercel-cli install --package-lock-only --ignore-scripts --no-audit --no-fund \
  --omit-lockfile-registry-resolved
# Two things are taken out: where a package's author takes donations, and the CLI's optional native
# twins (160 MB each, and not every mirror has all of them): the tests run the JavaScript.
python3 - tools/vercel-cli/package-lock.json <<'PYTHON'
import json, pathlib, sys

path = pathlib.Path(sys.argv[1])
lock = json.loads(path.read_text())
native = "@vercel/vc-native-"
for place, package in list(lock["packages"].items()):
    package.pop("funding", None)
    optional = package.get("optionalDependencies", {})
    for name in [name for name in optional if name.startswith(native)]:
        del optional[name]
    if native in place:
        del lock["packages"][place]
path.write_text(json.dumps(lock, indent=2) + "\n")
PYTHON
