#!/bin/sh
# Before the package goes for good; data and user stay. deb calls this with "remove" then, rpm with 0, apk
# with the version; and with something else when a newer package takes the place of this one.
set -e

case "$1" in
upgrade | failed-upgrade | deconfigure | 1) exit 0 ;;
esac
if [ -d /run/systemd/system ]; then
	systemctl disable --now heddle.service
elif command -v systemctl >/dev/null; then
	systemctl disable heddle.service
elif command -v rc-service >/dev/null; then
	rc-service --ifstarted heddle stop
	rc-update --quiet delete heddle || true
fi
