package db

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"heddle/control/tailnet"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// Load implements tailnet.Store. A row that cannot be understood is an error
// that names it: a tailnet must not lose a node in silence. Empty lists are nil.
func (d *DB) Load(ctx context.Context, name string) (tailnet.Image, error) {
	var img tailnet.Image
	err := d.snapshot(ctx, func(tx *gorm.DB) error {
		var head []tailnetRow
		if err := tx.Where("name = ?", name).Find(&head).Error; err != nil || len(head) == 0 {
			return err
		}
		t := head[0]
		img.Seq = tailnet.Seq(t.Seq)
		img.LastID = t.lastIDs()
		mine := tx.Where("tailnet = ?", name).Session(&gorm.Session{})
		var settings []*tailnet.Settings
		var policies []*tailnet.Policy
		for _, load := range []func() error{
			func() error { return load(mine.Order("id"), &img.Nodes, (*decoder).node) },
			func() error { return load(mine.Order("id"), &img.Users, (*decoder).user) },
			func() error { return load(mine.Order("id"), &img.AuthKeys, (*decoder).authKey) },
			func() error { return load(mine.Order("id"), &img.APIKeys, (*decoder).apiKey) },
			func() error { return load(mine.Order("node_key"), &img.Tombstones, (*decoder).tombstone) },
			func() error { return load(mine, &settings, (*decoder).settings) },
			func() error { return load(mine.Order("seq DESC").Limit(1), &policies, (*decoder).policy) },
		} {
			if err := load(); err != nil {
				return err
			}
		}
		if len(settings) > 0 {
			img.Settings = settings[0]
		}
		if len(policies) > 0 {
			img.Policy = policies[0]
		}
		return nil
	})
	if err != nil {
		return tailnet.Image{}, d.explain("load tailnet "+name, err)
	}
	return img, nil
}

func (t *tailnetRow) lastIDs() tailnet.LastIDs {
	return tailnet.LastIDs{
		Node:    tailnet.NodeID(t.LastNode),
		User:    tailnet.UserID(t.LastUser),
		AuthKey: tailnet.AuthKeyID(t.LastAuthKey),
		APIKey:  tailnet.APIKeyID(t.LastAPIKey),
	}
}

// load appends what the query selects to out.
func load[R, T any, P interface {
	*R
	row
}](query *gorm.DB, out *[]T, decode func(*decoder, *R) T) error {
	var rows []R
	if err := query.Find(&rows).Error; err != nil {
		return err
	}
	*out = slices.Grow(*out, len(rows))
	for i := range rows {
		var dec decoder
		v := decode(&dec, &rows[i])
		if dec.err != nil {
			r := P(&rows[i])
			return &tailnet.Error{
				Code: tailnet.Internal,
				Msg:  fmt.Sprintf("table %s, row %v of the database cannot be understood: undo what another program did to it, or put the latest backup in its place", r.TableName(), r.id()),
				Err:  dec.err,
			}
		}
		*out = append(*out, v)
	}
	return nil
}

// Commit implements tailnet.Store. An ended context keeps a commit from
// beginning; one that has begun is finished, so that its outcome is known.
func (d *DB) Commit(ctx context.Context, delta *tailnet.Delta) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	ctx = context.WithoutCancel(ctx)
	id := newOrigin()
	sent := false // all but the last word: from here on an error may be that of the answer
	err := d.within(ctx, func(ctx context.Context) error {
		return d.write.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
			lastAudit, err := d.advance(tx, delta)
			if err != nil {
				return err
			}
			if err := d.put(tx, delta, lastAudit); err != nil {
				return err
			}
			if d.engine.shared() {
				if err := d.tell(tx, delta, id); err != nil {
					return err
				}
			}
			sent = true
			return nil
		})
	})
	doing := "save a change of tailnet " + delta.Tailnet
	if err != nil && sent && d.engine.shared() {
		return d.explain(doing, d.outcome(ctx, delta, id, err))
	}
	return d.explain(doing, err)
}

// within runs fn for as long as a commit may take.
func (d *DB) within(ctx context.Context, fn func(context.Context) error) error {
	if limit := d.engine.dialect().patient; limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	return fn(ctx)
}

// advance moves the tailnet's sequence number from the delta's base to the
// next, which keeps every other committer out until the transaction ends. It returns
// the number of the last audit entry before this commit.
func (d *DB) advance(tx *gorm.DB, delta *tailnet.Delta) (lastAudit int64, err error) {
	var stored []tailnetRow
	if err := tx.Where("name = ?", delta.Tailnet).Find(&stored).Error; err != nil {
		return 0, err
	}
	if len(stored) > 0 {
		lastAudit = stored[0].LastAudit
		if stored[0].Seq != int64(delta.Base) {
			return 0, tailnet.ErrConflict
		}
	}
	next := tailnetRow{
		Name:        delta.Tailnet,
		Seq:         int64(delta.Base + 1),
		LastNode:    int64(delta.LastID.Node),
		LastUser:    int64(delta.LastID.User),
		LastAuthKey: int64(delta.LastID.AuthKey),
		LastAPIKey:  int64(delta.LastID.APIKey),
		LastAudit:   lastAudit + int64(len(delta.Audit)),
	}
	var done *gorm.DB
	switch {
	case len(stored) > 0:
		done = tx.Model(&tailnetRow{}).Where("name = ? AND seq = ?", delta.Tailnet, int64(delta.Base)).
			Select("*").Omit("name").Updates(&next)
	case delta.Base == 0:
		done = tx.Clauses(clause.OnConflict{DoNothing: true}).Create(&next)
	default:
		return 0, tailnet.ErrConflict
	}
	if done.Error == nil && done.RowsAffected == 0 {
		return 0, tailnet.ErrConflict
	}
	return lastAudit, done.Error
}

// put writes everything of the delta but the head of the tailnet.
func (d *DB) put(tx *gorm.DB, delta *tailnet.Delta, lastAudit int64) error {
	name, seq, batch := delta.Tailnet, delta.Base+1, d.engine.dialect().batch
	for _, replace := range []func() error{
		func() error { return replace(tx, batch, name, "id", delta.Users, userToRow) },
		func() error { return replace(tx, batch, name, "id", delta.AuthKeys, authKeyToRow) },
		func() error { return replace(tx, batch, name, "id", delta.APIKeys, apiKeyToRow) },
		func() error { return replace(tx, batch, name, "id", delta.Nodes, nodeToRow) },
		func() error { return replace(tx, batch, name, "node_key", delta.Tombstones, tombstoneToRow) },
	} {
		if err := replace(); err != nil {
			return err
		}
	}
	var e encoder
	if delta.Settings != nil {
		row := settingsToRow(&e, name, delta.Settings)
		if err := tx.Clauses(clause.OnConflict{UpdateAll: true}).Create(&row).Error; err != nil {
			return err
		}
	}
	if delta.Policy != nil {
		row := policyToRow(&e, name, seq, delta.Policy)
		if err := tx.Create(&row).Error; err != nil {
			return err
		}
	}
	audit := make([]auditRow, len(delta.Audit))
	for i := range delta.Audit {
		audit[i] = auditToRow(&e, rowKey{name, lastAudit + 1 + int64(i)}, seq, &delta.Audit[i])
	}
	if e.err != nil {
		return e.err
	}
	return insert(tx, batch, audit)
}

// replace removes the rows that change and then writes the new ones. An upsert
// row by row would trip over the unique indexes where two things of one
// delta swap a name or an address.
func replace[ID cmp.Ordered, T any, R row](tx *gorm.DB, batch int, name, idColumn string, c tailnet.Changes[ID, T], toRow func(*encoder, string, T) R) error {
	put := slices.Sorted(maps.Keys(c.Put))
	old := slices.Concat(put, slices.Collect(maps.Keys(c.Drop)))
	for ids := range slices.Chunk(old, batch) {
		if err := tx.Where("tailnet = ?", name).Where(idColumn+" IN ?", ids).Delete(new(R)).Error; err != nil {
			return err
		}
	}
	rows := make([]R, len(put))
	for i, id := range put {
		var e encoder
		rows[i] = toRow(&e, name, c.Put[id])
		if e.err != nil {
			return fmt.Errorf("table %s, row %v: %w", rows[i].TableName(), id, e.err)
		}
	}
	return insert(tx, batch, rows)
}

func insert[R any](tx *gorm.DB, batch int, rows []R) error {
	for some := range slices.Chunk(rows, batch) {
		if err := tx.Create(&some).Error; err != nil {
			return err
		}
	}
	return nil
}
