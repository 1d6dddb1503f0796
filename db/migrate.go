package db

import (
	"context"
	"fmt"
	"strings"

	"heddle/control/tailnet"

	"gorm.io/gorm"
)

// migrate takes the schema forward to the last of the steps, each in one
// transaction with the record of it. Tables that are not ours stay untouched:
// replication tools keep theirs in the same file.
func (d *DB) migrate(ctx context.Context, steps []step) error {
	g := d.write.WithContext(ctx)
	have, err := schemaVersion(g)
	if err != nil {
		return err
	}
	switch {
	case have > len(steps):
		return tailnet.Errorf(tailnet.Conflict, "the database %s was written by a newer heddle (its schema is version %d, this program knows up to %d): install that heddle again, or put the backup in place that it made beside the database before it upgraded it", d.path, have, len(steps))
	case have == len(steps):
		return nil
	case have == 0:
		if err := d.refuseForeign(g); err != nil {
			return err
		}
	default:
		backup := fmt.Sprintf("%s.v%d-%s", d.path, have, d.now().UTC().Format("20060102T150405.000Z"))
		if err := copyTo(ctx, d.write, backup); err != nil {
			return d.explain("copy the database before the upgrade", err)
		}
		d.log.Info("database copied before the upgrade", "backup", backup)
	}
	for i := have; i < len(steps); i++ {
		if err := d.apply(g, i+1, steps[i]); err != nil {
			return fmt.Errorf("schema version %d (%s): %w", i+1, steps[i].name, err)
		}
	}
	if have == 0 {
		d.log.Info("database created", "path", d.path, "schema", len(steps))
	} else {
		d.log.Info("database upgraded", "path", d.path, "from", have, "to", len(steps))
	}
	return nil
}

// schemaVersion returns zero for a database without our tables.
func schemaVersion(g *gorm.DB) (int, error) {
	if !g.Migrator().HasTable(&migrationRow{}) {
		return 0, g.Exec("SELECT 1").Error // HasTable is silent about errors
	}
	var version int
	err := g.Model(&migrationRow{}).Select("COALESCE(MAX(version), 0)").Scan(&version).Error
	return version, err
}

// refuseForeign fails if another program has tables by the names of ours.
func (d *DB) refuseForeign(g *gorm.DB) error {
	for _, table := range []string{"tailnets", "nodes", "users", "auth_keys", "api_keys", "tombstones", "settings", "policies", "audit"} {
		if g.Migrator().HasTable(table) {
			return tailnet.Errorf(tailnet.Conflict, "%s is a database of another program (it has a table %q and was never heddle's): choose another path for heddle's own", d.path, table)
		}
	}
	return nil
}

func (d *DB) apply(g *gorm.DB, version int, s step) error {
	return g.Transaction(func(tx *gorm.DB) error {
		if version == 1 {
			err := tx.Exec(`CREATE TABLE heddle_migrations (
				version    BIGINT NOT NULL PRIMARY KEY,
				name       TEXT   NOT NULL,
				applied_at TEXT
			)`).Error
			if err != nil {
				return err
			}
		}
		for _, statement := range s.statements {
			if err := tx.Exec(strings.ReplaceAll(statement, "{bytes}", bytesType)).Error; err != nil {
				return err
			}
		}
		var e encoder
		row := migrationRow{Version: version, Name: s.name, AppliedAt: e.time("applied_at", d.now())}
		if e.err != nil {
			return e.err
		}
		return tx.Create(&row).Error
	})
}
