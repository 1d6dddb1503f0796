#!/bin/sh
# Before the package goes for good; data, configuration and user stay. deb calls this with
# "upgrade" and rpm with 1 when a newer one takes its place.
set -e

case "$1" in
upgrade | 1) exit 0 ;;
esac
if [ -d /run/systemd/system ]; then
	systemctl disable --now heddle.service
elif command -v rc-service >/dev/null; then
	rc-service --ifstarted heddle stop
	rc-update --quiet delete heddle || true
fi
