package db

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"heddle/control/tailnet"

	"gorm.io/gorm"
)

// The log of changes tells a process that shares the database what the others
// committed: which things, not how they are now, for that stands in their own
// rows. A database that is not shared keeps no log.
var changeLog = []string{
	`CREATE TABLE changes (
		tailnet TEXT   NOT NULL REFERENCES tailnets (name),
		seq     BIGINT NOT NULL,
		id      TEXT   NOT NULL,
		what    TEXT   NOT NULL,
		PRIMARY KEY (tailnet, seq)
	)`,
}

// keepChanges is how many commits the log remembers: those of a busy minute. Who
// misses more loads everything, which then costs little more.
const keepChanges = 1000

// A changeRow is one commit.
type changeRow struct {
	Tailnet string `gorm:"primaryKey"`
	Seq     int64  `gorm:"primaryKey;autoIncrement:false"`
	ID      string // random: tells a committer that lost its connection whether it was its own
	What    string // JSON of changedJSON
}

func (changeRow) TableName() string { return "changes" }
func (r changeRow) id() any         { return r.Seq }

// changedJSON names what a commit put or dropped. Its form is part of the schema.
type changedJSON struct {
	Nodes      []tailnet.NodeID    `json:"nodes,omitempty"`
	Users      []tailnet.UserID    `json:"users,omitempty"`
	AuthKeys   []tailnet.AuthKeyID `json:"authKeys,omitempty"`
	APIKeys    []tailnet.APIKeyID  `json:"apiKeys,omitempty"`
	Tombstones []string            `json:"tombstones,omitempty"`
	Settings   bool                `json:"settings,omitempty"`
	Policy     bool                `json:"policy,omitempty"`
}

func changed(d *tailnet.Delta) changedJSON {
	return changedJSON{
		Nodes: touched(d.Nodes), Users: touched(d.Users), AuthKeys: touched(d.AuthKeys), APIKeys: touched(d.APIKeys),
		Tombstones: touched(d.Tombstones), Settings: d.Settings != nil, Policy: d.Policy != nil,
	}
}

func touched[ID comparable, T any](c tailnet.Changes[ID, T]) []ID {
	return slices.Concat(slices.Collect(maps.Keys(c.Put)), slices.Collect(maps.Keys(c.Drop)))
}

// newOrigin returns a random text that names a commit or a process.
func newOrigin() string { return rand.Text() }

// tell writes a commit into the log and wakes the other processes when it is done.
func (d *DB) tell(tx *gorm.DB, delta *tailnet.Delta, id string) error {
	var e encoder
	row := changeRow{Tailnet: delta.Tailnet, Seq: int64(delta.Base + 1), ID: id, What: e.json("what", changed(delta))}
	if e.err != nil {
		return e.err
	}
	if err := tx.Create(&row).Error; err != nil {
		return err
	}
	old := tx.Where("tailnet = ? AND seq <= ?", delta.Tailnet, row.Seq-keepChanges)
	if err := old.Delete(&changeRow{}).Error; err != nil {
		return err
	}
	return tx.Exec("SELECT pg_notify(?, ?)", channel, d.origin+" "+delta.Tailnet).Error
}

// outcomePatience is how long a commit waits to learn whether it happened, when the
// connection broke before the answer: a restart of the database takes about as long.
const outcomePatience = 5 * time.Second

// outcome finds out whether a commit happened whose answer was lost; cause is the error of it.
// It returns nil if it did, and cause if it did not.
func (d *DB) outcome(ctx context.Context, delta *tailnet.Delta, id string, cause error) error {
	ctx, cancel := context.WithTimeout(ctx, outcomePatience)
	defer cancel()
	retry := time.NewTicker(100 * time.Millisecond)
	defer retry.Stop()
	for {
		found, err := d.committed(ctx, delta)
		switch {
		case err != nil:
		case len(found) > 0 && found[0].ID == id:
			return nil
		case len(found) > 0:
			return tailnet.ErrConflict
		default:
			return cause
		}
		select {
		case <-ctx.Done():
			return &tailnet.Error{
				Code: tailnet.Unavailable,
				Msg:  fmt.Sprintf("the connection to the database %s broke while a change was saved, so that it may have been saved or not; look before you try again", d),
				Err:  cause,
			}
		case <-retry.C:
		}
	}
}

// committed returns what the log has in the place of a delta, once nobody can put it there any more: the
// server may be at work on a commit whose connection is gone, and finish it. Until then that holds the
// row of the tailnet, as every commit does.
func (d *DB) committed(ctx context.Context, delta *tailnet.Delta) (found []changeRow, err error) {
	// Asked where commits are written: nobody else's view of it counts.
	err = d.write.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
		if err := tx.Exec("SELECT seq FROM tailnets WHERE name = ? FOR UPDATE", delta.Tailnet).Error; err != nil {
			return err
		}
		return tx.Where("tailnet = ? AND seq = ?", delta.Tailnet, int64(delta.Base+1)).Find(&found).Error
	})
	return found, err
}

// Watch implements tailnet.Store.
func (d *DB) Watch(ctx context.Context, name string, news func()) { d.engine.watch(ctx, d, name, news) }

// Since implements tailnet.Store.
func (d *DB) Since(ctx context.Context, name string, after tailnet.Seq) (*tailnet.Delta, tailnet.Seq, error) {
	var delta *tailnet.Delta
	var head tailnet.Seq
	err := d.within(ctx, func(ctx context.Context) error {
		return d.snapshot(ctx, func(tx *gorm.DB) (err error) {
			delta, head, err = since(tx, name, after)
			return err
		})
	})
	if err != nil {
		return nil, 0, d.explain("read what others changed in tailnet "+name, err)
	}
	return delta, head, nil
}

func since(tx *gorm.DB, name string, after tailnet.Seq) (*tailnet.Delta, tailnet.Seq, error) {
	delta := &tailnet.Delta{Tailnet: name, Base: after}
	var stored []tailnetRow
	if err := tx.Where("name = ?", name).Find(&stored).Error; err != nil {
		return nil, 0, err
	}
	if len(stored) == 0 {
		if after != 0 {
			return nil, 0, tailnet.ErrForgotten
		}
		return delta, 0, nil
	}
	head := tailnet.Seq(stored[0].Seq)
	delta.LastID = stored[0].lastIDs()
	if head == after {
		return delta, head, nil
	}
	var log []changeRow
	if err := tx.Where("tailnet = ? AND seq > ?", name, int64(after)).Order("seq").Find(&log).Error; err != nil {
		return nil, 0, err
	}
	if len(log) != int(head-after) { // pruned, kept by nobody, or the database went back in time
		return nil, 0, tailnet.ErrForgotten
	}
	var all changedJSON
	for i := range log {
		var dec decoder
		var c changedJSON
		if decodeStrict(&dec, "what", log[i].What, &c); dec.err != nil {
			return nil, 0, fmt.Errorf("table changes, row %d: %w", log[i].Seq, dec.err)
		}
		all.add(c)
	}
	return delta, head, all.fill(tx, delta)
}

func (c *changedJSON) add(later changedJSON) {
	c.Nodes = append(c.Nodes, later.Nodes...)
	c.Users = append(c.Users, later.Users...)
	c.AuthKeys = append(c.AuthKeys, later.AuthKeys...)
	c.APIKeys = append(c.APIKeys, later.APIKeys...)
	c.Tombstones = append(c.Tombstones, later.Tombstones...)
	c.Settings = c.Settings || later.Settings
	c.Policy = c.Policy || later.Policy
}

// fill sets in the delta how everything that c names is now.
func (c *changedJSON) fill(tx *gorm.DB, delta *tailnet.Delta) error {
	mine := tx.Where("tailnet = ?", delta.Tailnet).Session(&gorm.Session{})
	errs := []error{
		fetch(mine, "id", c.Nodes, &delta.Nodes, (*decoder).node, func(n *tailnet.Node) tailnet.NodeID { return n.ID }),
		fetch(mine, "id", c.Users, &delta.Users, (*decoder).user, func(u *tailnet.User) tailnet.UserID { return u.ID }),
		fetch(mine, "id", c.AuthKeys, &delta.AuthKeys, (*decoder).authKey, func(k *tailnet.AuthKey) tailnet.AuthKeyID { return k.ID }),
		fetch(mine, "id", c.APIKeys, &delta.APIKeys, (*decoder).apiKey, func(k *tailnet.APIKey) tailnet.APIKeyID { return k.ID }),
		fetch(mine, "node_key", c.Tombstones, &delta.Tombstones, (*decoder).tombstone, func(t *tailnet.Tombstone) string { return t.Key.String() }),
	}
	if c.Settings {
		var settings []*tailnet.Settings
		errs = append(errs, load(mine, &settings, (*decoder).settings))
		if len(settings) > 0 {
			delta.Settings = settings[0]
		}
	}
	if c.Policy {
		var policies []*tailnet.Policy
		errs = append(errs, load(mine.Order("seq DESC").Limit(1), &policies, (*decoder).policy))
		if len(policies) > 0 {
			delta.Policy = policies[0]
		}
	}
	return errors.Join(errs...)
}

// fetchBatch is how many things are asked for in one query.
const fetchBatch = 500

// fetch reads the things with these IDs: they are put if they exist, else dropped.
func fetch[ID comparable, R, T any, P interface {
	*R
	row
}](query *gorm.DB, column string, ids []ID, into *tailnet.Changes[ID, T], decode func(*decoder, *R) T, idOf func(T) ID) error {
	for some := range slices.Chunk(ids, fetchBatch) {
		var found []T
		if err := load[R, T, P](query.Where(column+" IN ?", some), &found, decode); err != nil {
			return err
		}
		if into.Put == nil {
			into.Put, into.Drop = map[ID]T{}, map[ID]bool{}
		}
		for _, v := range found {
			into.Put[idOf(v)] = v
		}
	}
	for _, id := range ids {
		if _, ok := into.Put[id]; !ok {
			into.Drop[id] = true
		}
	}
	return nil
}
