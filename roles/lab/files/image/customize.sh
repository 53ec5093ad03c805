#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Make a freshly unpacked system a lab host. $1: its root folder.
set -euo pipefail
root=${1%/}

# Each host gets its own identity before its first start.
rm -f "$root"/etc/ssh/ssh_host_*
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id"

mask() {
  local unit
  for unit in "$@"; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
}
# udev would rewrite eth0's address from the machine-id; nothing here has a console, hardware or a need for upgrades.
mask systemd-udevd.service systemd-udevd-kernel.socket systemd-udevd-control.socket \
  systemd-networkd.service systemd-networkd.socket systemd-resolved.service \
  console-getty.service getty.target getty-static.service systemd-logind.service \
  apt-daily.timer apt-daily.service apt-daily-upgrade.timer apt-daily-upgrade.service \
  dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer motd-news.timer \
  ssh.socket

enabled="$root/etc/systemd/system/multi-user.target.wants"
# A role starts nginx when it has a configuration for it, as on any other host.
rm -f "$enabled/nginx.service"
mkdir -p "$enabled"
# Ubuntu starts SSH by its socket; here it is a service everywhere.
rm -rf "$root/etc/systemd/system/ssh.service.requires"
ln -sf /lib/systemd/system/ssh.service "$enabled/ssh.service"

mkdir -p "$root/etc/ssh/sshd_config.d"
cat >"$root/etc/ssh/sshd_config.d/lab.conf" <<'END'
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UseDNS no
MaxSessions 50
END

# Running a program must not change what is measured: without this, Python writes byte code beside its modules.
echo 'PYTHONDONTWRITEBYTECODE=1' >>"$root/etc/environment"
printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
