package config

import (
	"strings"
	"time"
)

func (c checker) checkStorage() {
	url, form := c.Database.URL.Reveal(), "must be the URL of a PostgreSQL database, like postgres://heddle@db.example.com/heddle; for SQLite remove it"
	if url != "" && !strings.HasPrefix(url, "postgres://") && !strings.HasPrefix(url, "postgresql://") && !strings.Contains(url, "dbname=") {
		c.failf("database.url", "%s", form)
	}
	b := c.Backup
	if b.Interval < time.Minute && !c.broken("backup.interval") {
		c.failf("backup.interval", "must be at least 1m")
	}
	if (b.Keep < 1 || b.Keep > 10000) && !c.broken("backup.keep") {
		c.failf("backup.keep", "must be 1 to 10000")
	}
	for _, r := range b.Recipients {
		if !strings.HasPrefix(r, "age1") && !strings.HasPrefix(r, "ssh-") {
			c.failf("backup.recipients", "%.20q… is no public key of age (age1…) or SSH (ssh-ed25519 …)", r)
		}
	}
	if b.Dir != "" && len(b.Recipients) == 0 {
		c.warnf("backups in %s are not encrypted and hold the keys of this server: set backup.recipients, or protect the directory as well as data_dir", b.Dir)
	}
	if b.Dir == "" && (c.isSet("backup.interval") || c.isSet("backup.keep") || c.isSet("backup.recipients")) {
		c.warnf("no backups are made: backup.dir is not set")
	}
}
