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
# Two things are taken out: where a package's author takes donations, and optional packages for other
# platforms that the registry did not have, which would make `npm ci` call the lock out of date.
python3 - tools/vercel-cli/package-lock.json <<'PYTHON'
import json, pathlib, sys

path = pathlib.Path(sys.argv[1])
lock = json.loads(path.read_text())
locked = {place.rsplit("node_modules/", 1)[-1] for place in lock["packages"]}
for package in lock["packages"].values():
    package.pop("funding", None)
    optional = package.get("optionalDependencies", {})
    for name in optional.keys() - locked:
        del optional[name]
path.write_text(json.dumps(lock, indent=2) + "\n")
PYTHON
