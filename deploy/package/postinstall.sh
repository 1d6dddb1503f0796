#!/bin/sh
# After the installation or an upgrade: the user, the rights, and a restart if the service runs. A new
# service is not started, since it wants its configuration first.
set -e

if ! id heddle >/dev/null 2>&1; then
	nologin=/usr/sbin/nologin
	[ -x $nologin ] || nologin=/sbin/nologin
	if command -v useradd >/dev/null; then
		useradd --system --user-group --home-dir /var/lib/heddle --no-create-home --shell $nologin heddle
	else # Alpine
		addgroup -S heddle
		adduser -S -D -H -h /var/lib/heddle -s $nologin -G heddle heddle
	fi
fi

# The configuration may hold secrets.
chown root:heddle /etc/heddle/config.yaml
chmod 0640 /etc/heddle/config.yaml

# The unit would make it, but heddle restore comes before the first start.
install -d -m 0700 -o heddle -g heddle /var/lib/heddle

# A new service is enabled where that is the distribution's custom: Debian's is, Fedora's is not. deb calls this
# with "configure" and the version that was there before, rpm with how many there are now.
if [ "$1,$2" = configure, ] || [ "$1" = 1 ]; then
	if command -v systemctl >/dev/null; then
		systemctl preset heddle.service
	fi
fi

if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl try-restart heddle.service
elif command -v rc-service >/dev/null; then
	rc-service --ifstarted heddle restart
fi
