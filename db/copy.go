package db

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"heddle/control/tailnet"

	"gorm.io/gorm"
)

// tables are ours but for the record of the steps, those that others refer to first.
var tables = []string{
	"tailnets", "nodes", "users", "auth_keys", "api_keys", "tombstones", "settings", "policies", "audit", "changes", "webhook_positions",
}

// Save writes a consistent copy of a database, as Backup does, while another process may have it
// open and go on working. It changes nothing of the database.
func Save(ctx context.Context, o Options, path string) error {
	e, err := engineOf(o)
	if err != nil {
		return err
	}
	d := newDB(e, o)
	defer d.Close()
	if f, ok := e.(*file); ok {
		if _, err := os.Stat(f.path); err != nil {
			return &tailnet.Error{Code: tailnet.NotFound, Msg: fmt.Sprintf("there is no database at %s, or you may not see it: run this as the user of the server, with its configuration", f.path), Err: err}
		}
	}
	if d.read, err = e.open(false); err != nil {
		return d.explain("open the database", err)
	}
	version, err := schemaVersion(d.read.WithContext(ctx))
	switch {
	case err != nil:
		return d.explain("read the database", err)
	case version == 0:
		return tailnet.Errorf(tailnet.NotFound, "%s holds no heddle: there is nothing to back up", e)
	}
	return d.Backup(ctx, path)
}

// CopyTo copies everything to an empty database of the same heddle. It fails with Conflict if that one
// has a tailnet already, and leaves it as it was then, and whenever it fails. It returns how many rows
// it copied.
func (d *DB) CopyTo(ctx context.Context, to *DB) (rows int, err error) {
	err = d.snapshot(ctx, func(from *gorm.DB) error {
		return to.write.WithContext(ctx).Transaction(func(into *gorm.DB) error {
			var there int64
			if err := into.Model(&tailnetRow{}).Count(&there).Error; err != nil {
				return to.explain("read the database", err)
			}
			if there > 0 {
				return tailnet.Errorf(tailnet.Conflict, "%s has a tailnet already: give an empty database", to)
			}
			rows, err = copyRows(from, into, to.engine.dialect().batch)
			return err
		})
	})
	if err != nil {
		return 0, d.explain(fmt.Sprintf("copy the database to %s", to), err)
	}
	return rows, nil
}

// copyRows copies the tables that there are in from, which has the schema of into.
func copyRows(from, into *gorm.DB, batch int) (count int, err error) {
	for _, table := range tables {
		if !from.Migrator().HasTable(table) {
			continue // a later step makes it
		}
		n, err := copyTable(from, into, table, batch)
		if err != nil {
			return 0, fmt.Errorf("table %s: %w", table, err)
		}
		count += n
	}
	return count, nil
}

func copyTable(from, into *gorm.DB, table string, batch int) (count int, err error) {
	rows, err := from.Table(table).Rows()
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	columns, err := rows.ColumnTypes()
	if err != nil {
		return 0, err
	}
	var pending []map[string]any
	flush := func() error {
		if len(pending) == 0 {
			return nil
		}
		count += len(pending)
		err := into.Table(table).Create(pending).Error
		pending = pending[:0]
		return err
	}
	for rows.Next() {
		values := make([]any, len(columns))
		at := make([]any, len(columns))
		for i := range values {
			at[i] = &values[i]
		}
		if err := rows.Scan(at...); err != nil {
			return 0, err
		}
		row := make(map[string]any, len(columns))
		for i, c := range columns {
			row[c.Name()] = values[i]
			if n, ok := values[i].(int64); ok && c.DatabaseTypeName() == "BOOLEAN" { // SQLite has numbers only
				row[c.Name()] = n != 0
			}
		}
		if pending = append(pending, row); len(pending) == batch {
			if err := flush(); err != nil {
				return 0, err
			}
		}
	}
	return count, errors.Join(rows.Err(), flush())
}

// saveTo copies what from holds, at a version of the schema, into a new SQLite file.
func saveTo(ctx context.Context, from *gorm.DB, path string) error {
	return inSnapshot(ctx, from, func(from *gorm.DB) error {
		version, err := schemaVersion(from)
		if err != nil {
			return err
		}
		if version > len(steps) {
			return newer("the database", version, len(steps))
		}
		to, err := openEngine(ctx, &file{path: path, alone: true}, Options{}, slices.Clone(steps[:version]))
		if err != nil {
			return err
		}
		err = to.write.WithContext(ctx).Transaction(func(into *gorm.DB) error {
			_, err := copyRows(from, into, to.engine.dialect().batch)
			return err
		})
		return errors.Join(err, to.Close())
	})
}

// saveAs lets write fill a new file of mode 0600, which appears under its name complete and
// synced, or not at all.
func saveAs(path string, write func(partial string) error) (err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("backup path: %w", err)
	}
	if _, err := os.Lstat(path); err == nil {
		return tailnet.Errorf(tailnet.Conflict, "%s exists: choose a new name for the backup", path)
	}
	// SQLite fills an existing empty file, and so cannot choose its mode.
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".partial-*")
	if err != nil {
		return &tailnet.Error{Code: tailnet.Unavailable, Msg: "cannot write a backup to " + path + ": check the directory and its rights", Err: err}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	defer f.Close()
	if err := write(f.Name()); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync the backup: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("name the backup: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the names in a directory survive a power cut.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open a directory: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}
