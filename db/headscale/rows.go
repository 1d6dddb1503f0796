package headscale

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"gorm.io/gorm"
)

// tables are the tables of a database, which differ between releases and, in databases that were mended by hand, also
// within them: columns are asked for by name, and those that are not there are empty.
type tables struct {
	g       *gorm.DB
	columns map[string][]string // by table
	highest map[string]int64    // ID by table, of the rows that were read
	damaged []string
}

func newTables(g *gorm.DB) (*tables, error) {
	names, err := g.Migrator().GetTables()
	if err != nil {
		return nil, err
	}
	t := &tables{g: g, columns: map[string][]string{}, highest: map[string]int64{}}
	for _, name := range names {
		if strings.HasPrefix(name, "_litestream") || strings.HasPrefix(name, "sqlite_") {
			continue
		}
		rows, err := g.Table(name).Where("1 = 0").Rows()
		if err != nil {
			return nil, fmt.Errorf("table %s: %w", name, err)
		}
		t.columns[name], err = rows.Columns()
		if err = errors.Join(err, rows.Close()); err != nil {
			return nil, fmt.Errorf("table %s: %w", name, err)
		}
	}
	return t, nil
}

// has tells whether there is a table, and in it the columns.
func (t *tables) has(table string, columns ...string) bool {
	there, ok := t.columns[table]
	for _, c := range columns {
		ok = ok && slices.Contains(there, c)
	}
	return ok
}

// last returns the highest ID that was ever given in a table, also to rows that are gone: the databases count.
func (t *tables) last(table string) int64 {
	query := `SELECT seq FROM sqlite_sequence WHERE name = ?`
	if t.g.Name() == "postgres" {
		query = `SELECT last_value FROM pg_sequences WHERE schemaname = current_schema() AND sequencename = ? || '_id_seq'`
	}
	var counted *int64
	if err := t.g.Raw(query, table).Scan(&counted).Error; err != nil || counted == nil {
		return t.highest[table] // nothing counts, as in tables without AUTOINCREMENT
	}
	return max(*counted, t.highest[table])
}

// each calls fn for the rows that were not deleted, in ascending order of ID. A row that fn finds damage in is noted.
func (t *tables) each(table string, fn func(*row)) error {
	rows, err := t.g.Table(table).Order("id").Rows()
	if err != nil {
		return fmt.Errorf("table %s: %w", table, err)
	}
	defer rows.Close()
	columns := t.columns[table]
	for rows.Next() {
		values, at := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			at[i] = &values[i]
		}
		if err := rows.Scan(at...); err != nil {
			return fmt.Errorf("table %s: %w", table, err)
		}
		r := &row{values: make(map[string]any, len(columns))}
		for i, c := range columns {
			r.values[c] = values[i]
		}
		r.id = r.number("id")
		if t.highest[table] = max(t.highest[table], r.id); r.deleted() {
			continue
		}
		fn(r)
		if r.err != nil {
			t.damaged = append(t.damaged, fmt.Sprintf("%s: %v", describe(table, r.id), r.err))
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("table %s: %w", table, err)
	}
	return nil
}

// A row is read column by column and keeps the first error.
type row struct {
	id     int64
	values map[string]any
	err    error
}

func (r *row) good() bool { return r.err == nil }

func (r *row) fail(column string, err error) {
	if r.err == nil {
		r.err = fmt.Errorf("%s: %w", column, err)
	}
}

// deleted reports whether the row is one of those that were only marked as deleted.
func (r *row) deleted() bool { return r.values["deleted_at"] != nil && r.text("deleted_at") != "" }

// text is "" for NULL.
func (r *row) text(column string) string {
	switch v := r.values[column].(type) {
	case nil:
		return ""
	case string:
		return v
	case []byte: // JSON that a migration wrote has this type
		return string(v)
	case time.Time:
		return v.Format(time.RFC3339Nano)
	default:
		return fmt.Sprint(v)
	}
}

// number is zero for NULL.
func (r *row) number(column string) int64 {
	text := r.text(column)
	if text == "" {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		r.fail(column, fmt.Errorf("%.40q is not an ID", text))
	}
	return n
}

// truth understands numbers and, in databases that were mended by hand, words.
func (r *row) truth(column string) bool {
	switch strings.ToLower(r.text(column)) {
	case "", "0", "false", "f":
		return false
	case "1", "true", "t":
		return true
	}
	r.fail(column, fmt.Errorf("%.40q is neither true nor false", r.text(column)))
	return false
}

// timeLayouts are how SQLite's rows have times. Some lack the offset, and mean UTC.
var timeLayouts = []string{
	time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999-07", "2006-01-02 15:04:05.999999999",
	"2006-01-02T15:04:05.999999999", "2006-01-02 15:04", "2006-01-02", "2006-01-02 15:04:05.999999999 -0700 MST",
}

// time is zero for NULL, and for what means never: any time of the year 1, and what is too far off to be a date.
func (r *row) time(column string) time.Time {
	at, ok := r.values[column].(time.Time)
	if text := r.text(column); !ok && text != "" {
		var err error
		for _, layout := range timeLayouts {
			if at, err = time.Parse(layout, text); err == nil {
				break
			}
		}
		if err != nil {
			r.fail(column, fmt.Errorf("%.60q is not a time", text))
			return time.Time{}
		}
	}
	if at = at.UTC(); at.Year() <= 1 || at.Year() > 9999 {
		return time.Time{}
	}
	return at
}

// addr is invalid for NULL.
func (r *row) addr(column string) netip.Addr {
	text := r.text(column)
	if text == "" {
		return netip.Addr{}
	}
	ip, err := netip.ParseAddr(text)
	if err != nil || ip.Zone() != "" || ip.Is4In6() {
		r.fail(column, fmt.Errorf("%.60q is not an address", text))
	}
	return ip
}

func (r *row) key(column string, into interface{ UnmarshalText([]byte) error }) {
	if err := into.UnmarshalText([]byte(r.text(column))); err != nil {
		r.fail(column, fmt.Errorf("%.20q is not a key of this kind", r.text(column)))
	}
}

// json reads a JSON column unless that is empty.
func (r *row) json(column string, into any) {
	text := r.text(column)
	if text == "" {
		return
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		r.fail(column, err)
	}
}

// list is nil for NULL, an empty text and null, which all stand for an empty list.
func list[T any](r *row, column string) []T {
	var out []T
	r.json(column, &out)
	return out
}
