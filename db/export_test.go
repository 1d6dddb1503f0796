package db

import "context"

// Version is that of the schema.
var Version = len(steps)

// Step makes a migration step for tests.
func Step(name string, statements ...string) step { return step{name, statements} }

// OpenSteps is Open as of a version with other steps after the real ones.
func OpenSteps(ctx context.Context, o Options, more ...step) (*DB, error) {
	return open(ctx, o, append(steps[:len(steps):len(steps)], more...))
}

// Pragma returns the value of a setting of the connection that commits.
func (d *DB) Pragma(name string) (value string, err error) {
	err = d.write.Raw("PRAGMA " + name).Scan(&value).Error
	return value, err
}
