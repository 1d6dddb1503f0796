package db

import (
	"context"
	"strings"
	"time"

	"heddle/control/tailnet"

	"gorm.io/gorm"
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

// A positionRow is how far the deliveries of a webhook have come.
type positionRow struct {
	Tailnet  string `gorm:"primaryKey"`
	Webhook  string `gorm:"primaryKey"`
	Position int64  // of the audit entry
}

func (positionRow) TableName() string { return "webhook_positions" }

// WebhookPosition returns which audit entry was the latest that a webhook needed no more; zero if
// none was.
func (d *DB) WebhookPosition(ctx context.Context, name, webhook string) (int64, error) {
	var rows []positionRow
	if err := d.read.WithContext(ctx).Where("tailnet = ? AND webhook = ?", name, webhook).Find(&rows).Error; err != nil || len(rows) == 0 {
		return 0, d.explain("read the position of a webhook", err)
	}
	return rows[0].Position, nil
}

// SetWebhookPosition keeps that; zero forgets the webhook.
func (d *DB) SetWebhookPosition(ctx context.Context, name, webhook string, position int64) error {
	g := d.write.WithContext(ctx)
	err := g.Transaction(func(tx *gorm.DB) error {
		if err := tx.Where("tailnet = ? AND webhook = ?", name, webhook).Delete(&positionRow{}).Error; err != nil || position == 0 {
			return err
		}
		return tx.Create(&positionRow{name, webhook, position}).Error
	})
	return d.explain("keep the position of a webhook", err)
}

// webhookSchema is for deliveries; the webhooks themselves are in the settings.
var webhookSchema = []string{
	`CREATE INDEX audit_at ON audit (tailnet, at)`,
	`CREATE TABLE webhook_positions (
		tailnet  TEXT   NOT NULL REFERENCES tailnets (name),
		webhook  TEXT   NOT NULL,
		position BIGINT NOT NULL,
		PRIMARY KEY (tailnet, webhook)
	)`,
}
