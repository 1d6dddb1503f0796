#!/bin/sh
# After the package went, for good or for a newer one. What devices depend on stays, even if the package is purged.
set -e

case "$1" in
upgrade | failed-upgrade | abort-* | disappear | 1) exit 0 ;;
esac
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
if [ -d /var/lib/heddle ]; then
	echo "The data of heddle and the keys of its network are left in /var/lib/heddle."
fi
