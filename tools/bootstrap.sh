#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Make this machine able to run the lab and the gates: system packages, then Python environments in build/venv.
#
#   tools/bootstrap.sh lab     what playbooks and the lab need
#   tools/bootstrap.sh test    that, and the gates
#
# Does nothing, in well under a second, where nothing changed: packages are looked up, and each environment
# remembers the digest of its requirement files. pip is used as the machine configures it (pip.conf, PIP_*).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

purpose=${1:-}
case $purpose in
  lab | test) ;;
  *)
    echo "usage: tools/bootstrap.sh lab|test" >&2
    exit 64
    ;;
esac

packages=(
  ca-certificates git gcc iproute2 iptables openssh-client openssl python3 python3-dev python3-venv
  libtss2-dev pkg-config tpm2-tools swtpm swtpm-tools
  podman runc netavark aardvark-dns mmdebstrap
)
# ansible-rulebook's rule engine is Java.
[ "$purpose" = lab ] || packages+=(default-jre-headless)

say() { printf 'bootstrap: %s\n' "$*"; }

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif [ "${CI:-}" = true ]; then
    sudo -n "$@"
  else
    sudo "$@"
  fi
}

supported_system() {
  local ID='' VERSION_ID=''
  if [ -r /etc/os-release ]; then
    # shellcheck source=/dev/null
    . /etc/os-release
  fi
  case "$ID-$VERSION_ID" in
    debian-12 | debian-13 | ubuntu-24.04) ;;
    *)
      say "this machine is '$ID $VERSION_ID'; supported are Debian 12, Debian 13 and Ubuntu 24.04" >&2
      return 1
      ;;
  esac
}

missing_packages() {
  local present
  present=$(dpkg-query --show --showformat '${db:Status-Abbrev}${Package}\n' "${packages[@]}" 2>/dev/null || true)
  for package in "${packages[@]}"; do
    grep -qx "ii *$package" <<<"$present" || printf '%s\n' "$package"
  done
}

# A package must not start its daemon on the machine of somebody who runs tests.
without_starting_services() {
  local policy=/usr/sbin/policy-rc.d
  if [ -e "$policy" ]; then
    "$@"
    return
  fi
  local status=0
  printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
  as_root chmod 0755 "$policy"
  "$@" || status=$?
  as_root rm -f "$policy"
  return "$status"
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages)
  [ "${#missing[@]}" -gt 0 ] || return 0
  supported_system
  say "installing ${missing[*]}"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 update </dev/null
  without_starting_services as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "${missing[@]}" </dev/null
}

# inputs_of FILE...: what decides the content of an environment
inputs_of() {
  {
    printf '%s %s\n' "$interpreter" "$("$interpreter" -c 'import sys; print(sys.version, sys.platform)')"
    cat "$@"
  } | sha256sum | cut -d' ' -f1
}

# install_into ENVIRONMENT FILE: from the index that the machine's pip is configured with, by hash
install_into() {
  say "installing $2 into $1"
  "$1/bin/python" -m pip --disable-pip-version-check --no-input install -qq --progress-bar off \
    --no-build-isolation --require-hashes -r "$2" </dev/null
}

# environment NAME FIRST REST...: remade when FIRST changes; each of REST is installed on top and has its own mark
environment() {
  local target=build/venv/$1 base=$2 digest
  shift 2
  digest=$(inputs_of requirements/build.txt "$base")
  if [ "$(cat "$target/.inputs" 2>/dev/null)" != "$digest" ]; then
    say "making $target with $interpreter"
    rm -f "$target/.inputs"
    "$interpreter" -m venv --clear "$target"
    # What comes as source is built with these, pinned as well, and not with what the index has newest.
    install_into "$target" requirements/build.txt
    install_into "$target" "$base"
    # The services are imported from the working tree.
    printf '%s\n' "$PWD/src" >"$("$target/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/src.pth"
    printf '%s\n' "$digest" >"$target/.inputs"
  fi
  for further in "$@"; do
    local mark
    mark=$target/.inputs.$(basename "$further")
    digest=$(inputs_of requirements/build.txt "$base" "$further")
    if [ "$(cat "$mark" 2>/dev/null)" != "$digest" ]; then
      install_into "$target" "$further"
      printf '%s\n' "$digest" >"$mark"
    fi
  done
}

# Playbooks are called as trusted.infrastructure.NAME: Ansible finds this clone below build/collections.
link_collection() {
  local namespace=build/collections/ansible_collections/trusted
  mkdir -p "$namespace"
  ln -sfn ../../../.. "$namespace/infrastructure"
}

mkdir -p build/venv
exec 9>build/bootstrap.lock
flock 9

install_packages
interpreter=$(tools/interpreter.sh)
link_collection
case $purpose in
  lab) environment main requirements/control.txt ;;
  test)
    environment main requirements/control.txt requirements/gates.txt
    environment importer requirements/importer.txt
    ;;
esac
