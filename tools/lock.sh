#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Resolve requirements/*.in and pyproject.toml anew into requirements/*.txt, with the hashes of every platform.
# For maintainers: `make lock`, then read the difference. gates.txt is resolved first and constrains all others,
# so that the services are tested with exactly the versions that hosts get.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

environment=build/venv/lock
[ -x "$environment/bin/python" ] || "$(tools/interpreter.sh)" -m venv "$environment"
"$environment/bin/python" -m pip install -qq --require-hashes -r requirements/lock.txt

# resolve OUTPUT [OPTION | INPUT ...]
resolve() {
  local output=requirements/$1
  shift
  "$environment/bin/uv" pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
    --no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file "$output" "$@"
  printf '%s: %s packages\n' "$output" "$(grep -c '==' "$output")"
}

resolve gates.txt requirements/gates.in requirements/control.in requirements/build.in pyproject.toml --all-extras
resolve build.txt requirements/build.in -c requirements/gates.txt
resolve control.txt requirements/control.in pyproject.toml --extra authority --extra manager -c requirements/gates.txt
for extra in authority host manager; do
  resolve "$extra.txt" pyproject.toml --extra "$extra" -c requirements/gates.txt
done
resolve importer.txt requirements/importer.in
resolve lock.txt requirements/lock.in
