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
// replication tools keep theirs in the same database.
func (d *DB) migrate(ctx context.Context, steps []step) error {
	g := d.write.WithContext(ctx)
	have, err := schemaVersion(g)
	if err != nil {
		return err
	}
	switch {
	case have > len(steps):
		return newer(d.String(), have, len(steps))
	case have == len(steps):
		return nil
	case have == 0:
		if err := d.refuseForeign(g); err != nil {
			// Another heddle that starts just now may have made them, with the record of it.
			if have, again := schemaVersion(g); again != nil || have == 0 {
				return err
			}
		}
	default:
		if err := d.saveBefore(ctx, have); err != nil {
			return err
		}
	}
	for i := have; i < len(steps); i++ {
		if err := d.apply(g, i+1, steps[i]); err != nil {
			return fmt.Errorf("schema version %d (%s): %w", i+1, steps[i].name, err)
		}
	}
	if have == 0 {
		d.log.Info("database created", "database", d.String(), "schema", len(steps))
	} else {
		d.log.Info("database upgraded", "database", d.String(), "from", have, "to", len(steps))
	}
	return nil
}

func newer(name string, have, know int) error {
	return tailnet.Errorf(tailnet.Conflict, "the database %s was written by a newer heddle (its schema is version %d, this program knows up to %d): install that heddle again, or put the backup in place that it made before it upgraded the database", name, have, know)
}

// saveBefore keeps the database as it is before its schema changes.
func (d *DB) saveBefore(ctx context.Context, version int) error {
	path := d.engine.saveFor(version, d.now())
	if path == "" {
		d.log.Warn("the database is upgraded without a copy: there is no directory to put one", "database", d.String())
		return nil
	}
	err := saveAs(path, func(partial string) error { return d.engine.copy(ctx, d.write, partial) })
	if err != nil {
		return d.explain("copy the database before the upgrade", err)
	}
	d.log.Info("database copied before the upgrade", "backup", path)
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
	for _, table := range tables {
		if g.Migrator().HasTable(table) {
			return tailnet.Errorf(tailnet.Conflict, "%s is a database of another program (it has a table %q and was never heddle's): choose another path for heddle's own", d, table)
		}
	}
	return nil
}

// apply makes one step, unless another process has made it meanwhile.
func (d *DB) apply(g *gorm.DB, version int, s step) error {
	return g.Transaction(func(tx *gorm.DB) error {
		if err := d.engine.migrating(tx); err != nil {
			return err
		}
		if have, err := schemaVersion(tx); err != nil || have >= version {
			return err
		}
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
			if err := tx.Exec(strings.ReplaceAll(statement, "{bytes}", d.engine.dialect().bytes)).Error; err != nil {
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
