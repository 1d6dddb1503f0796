package db

import (
	"context"
	"strings"
	"time"

	"heddle/control/tailnet"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// Audit returns the entries of the tailnet's audit log that q selects, never more than 1000 at a
// time. next is what q.Before, or with q.Oldest q.After, is to be for those that follow;
// zero if there are none.
func (d *DB) Audit(ctx context.Context, name string, q tailnet.AuditQuery) (page []tailnet.AuditRecord, next int64, err error) {
	limit := bound(q.Limit, maxAuditPage)
	var query *gorm.DB
	if q.Oldest {
		query = d.read.WithContext(ctx).Where("tailnet = ? AND id > ?", name, q.After).Order("id").Limit(limit + 1)
	} else {
		query = d.history(ctx, name, "id", limit, q.Before)
	}
	var e encoder
	if q.Actor != "" {
		query = query.Where(`LOWER(actor_kind || ' ' || actor_name || ' ' || actor_from) LIKE ? ESCAPE '\'`, part(q.Actor))
	}
	if q.Action != "" {
		query = query.Where(`(action = ? OR action LIKE ? ESCAPE '\')`, q.Action, literal(q.Action)+".%")
	}
	if q.Target != "" {
		query = query.Where(`LOWER(target) LIKE ? ESCAPE '\'`, part(q.Target))
	}
	if !q.Since.IsZero() {
		query = query.Where("at >= ?", e.time("since", q.Since))
	}
	if !q.Until.IsZero() {
		query = query.Where("at < ?", e.time("until", q.Until))
	}
	if e.err != nil {
		return nil, 0, &tailnet.Error{Code: tailnet.Invalid, Msg: "a time of the filter is too far away", Err: e.err}
	}
	next, err = readPage(query, limit, &page, (*decoder).auditRecord, func(r *auditRow) int64 { return r.Key.ID })
	return page, next, d.explain("read the audit log", err)
}

func (d *decoder) auditRecord(r *auditRow) tailnet.AuditRecord {
	return tailnet.AuditRecord{ID: r.Key.ID, Seq: tailnet.Seq(r.Seq), AuditEntry: d.audit(r)}
}

// literal makes LIKE take text for what it is.
func literal(text string) string {
	return strings.NewReplacer(`\`, `\\`, "%", `\%`, "_", `\_`).Replace(text)
}

// part makes LIKE find text anywhere in a lower-case text.
func part(text string) string { return "%" + literal(strings.ToLower(text)) + "%" }

// pruneBatch is how many entries go at a time, so that a commit never waits for long.
const pruneBatch = 500

// PruneAudit forgets entries that are older than before, and returns how many those were.
func (d *DB) PruneAudit(ctx context.Context, name string, before time.Time) (gone int64, err error) {
	var e encoder
	at := e.time("at", before)
	for e.err == nil {
		done := d.write.WithContext(ctx).Exec("DELETE FROM audit WHERE tailnet = ? AND id IN (SELECT id FROM audit WHERE tailnet = ? AND at < ? ORDER BY at LIMIT ?)",
			name, name, at, pruneBatch)
		if done.Error != nil {
			return gone, d.explain("prune the audit log", done.Error)
		}
		if gone += done.RowsAffected; done.RowsAffected < pruneBatch {
			return gone, nil
		}
	}
	return gone, e.err
}

// A positionRow is how far the deliveries of a webhook have come, and who delivers.
type positionRow struct {
	Tailnet  string `gorm:"primaryKey"`
	Webhook  string `gorm:"primaryKey"`
	Position int64  // of the audit entry
	Holder   string // the process
	Until    *string
}

func (positionRow) TableName() string { return "webhook_positions" }

// holder names this process to the others that share the database. Nobody shares a file: its
// next process goes on where this one stops, at once.
func (d *DB) holder() string {
	if _, alone := d.engine.(*file); alone {
		return "alone"
	}
	return d.origin
}

// ClaimWebhook makes this process the one that delivers to a webhook until a time, unless another one
// does that still: of several that share a database, one delivers. It returns which audit
// entry was the latest that the webhook needs no more; zero if none was.
func (d *DB) ClaimWebhook(ctx context.Context, name, webhook string, until time.Time) (position int64, mine bool, err error) {
	var e encoder
	now, end := e.time("until", d.now()), e.time("until", until)
	if e.err != nil {
		return 0, false, e.err
	}
	err = d.write.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
		fresh := positionRow{Tailnet: name, Webhook: webhook, Holder: d.holder(), Until: end}
		if made := tx.Clauses(clause.OnConflict{DoNothing: true}).Create(&fresh); made.Error != nil || made.RowsAffected > 0 {
			mine = made.Error == nil
			return made.Error
		}
		claim := tx.Model(&positionRow{}).Where("tailnet = ? AND webhook = ? AND (holder = ? OR until < ?)", name, webhook, d.holder(), now).
			Updates(map[string]any{"holder": d.holder(), "until": end})
		if mine = claim.RowsAffected > 0; claim.Error != nil || !mine {
			return claim.Error
		}
		return tx.Model(&positionRow{}).Select("position").Where("tailnet = ? AND webhook = ?", name, webhook).Scan(&position).Error
	})
	return position, mine && err == nil, d.explain("claim a webhook", err)
}

// MoveWebhook keeps how far the deliveries of a claimed webhook have come. It fails with Conflict if
// another process has it now.
func (d *DB) MoveWebhook(ctx context.Context, name, webhook string, position int64) error {
	done := d.write.WithContext(ctx).Model(&positionRow{}).Where("tailnet = ? AND webhook = ? AND holder = ?", name, webhook, d.holder()).
		Update("position", position)
	if done.Error == nil && done.RowsAffected == 0 {
		return tailnet.Errorf(tailnet.Conflict, "another server delivers to the webhook %s now", webhook)
	}
	return d.explain("keep the position of a webhook", done.Error)
}

// ForgetWebhook drops what is kept of a webhook.
func (d *DB) ForgetWebhook(ctx context.Context, name, webhook string) error {
	err := d.write.WithContext(ctx).Where("tailnet = ? AND webhook = ?", name, webhook).Delete(&positionRow{}).Error
	return d.explain("forget a webhook", err)
}

// webhookSchema is for deliveries; the webhooks themselves are in the settings.
var webhookSchema = []string{
	`CREATE INDEX audit_at ON audit (tailnet, at)`,
	`CREATE TABLE webhook_positions (
		tailnet  TEXT   NOT NULL REFERENCES tailnets (name),
		webhook  TEXT   NOT NULL,
		position BIGINT NOT NULL,
		holder   TEXT   NOT NULL,
		until    TEXT,
		PRIMARY KEY (tailnet, webhook)
	)`,
}
