package doctor

import (
	"context"
	"strings"
	"time"

	"heddle/cmd/heddle/archive"
	"heddle/control/tailnet"
	"heddle/db"
)

// examineIn bounds the look at the database: a file is read whole, which takes about a second for each gigabyte.
const examineIn = time.Minute

// database looks whether the server can work with its database, whether it runs or not.
func (e *exam) database(ctx context.Context) {
	const name = "database"
	ctx, cancel := context.WithTimeout(ctx, examineIn)
	defer cancel()
	where, file := "the SQLite file in "+e.cfg.DataDir, true
	if !e.cfg.Database.URL.IsZero() {
		where, file = "the PostgreSQL database of database.url", false
	}
	there, err := db.Examine(ctx, archive.Database(e.cfg))
	reason, next := nextStep(tailnet.Message(err))
	switch {
	case err == nil && there:
		e.fine(name, "%s is whole, and can be written to", where)
	case err == nil:
		e.fine(name, "there is none yet: the server makes it when it starts")
	case file && ctx.Err() != nil:
		e.skip(name, "%s could not be read whole within %v", where, examineIn)
	case file && tailnet.CodeOf(err) == tailnet.Denied:
		e.skip(name, "%s", tailnet.Message(err))
	default:
		e.broken(name, next, "%s", reason)
	}
}

// nextStep takes apart a message of the database's, which ends with what to do, after a colon or a semicolon.
func nextStep(message string) (reason, next string) {
	i := max(strings.LastIndex(message, ": "), strings.LastIndex(message, "; "))
	if i < 0 {
		return message, "see the server's log: `journalctl -u heddle`"
	}
	return message[:i], message[i+2:]
}
