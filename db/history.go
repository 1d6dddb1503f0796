package db

import (
	"context"

	"heddle/control/tailnet"

	"gorm.io/gorm"
)

// The most that one page of history holds, so that nobody makes the server
// keep all of it in memory. Policies are long, hence fewer.
const (
	maxAuditPage  = 1000
	maxPolicyPage = 50
)

// Audit returns a page of the tailnet's audit log, newest first. Entries are
// numbered from 1 in the order of commits. The page holds entries below before
// (the newest if before is zero) and at most limit of them, never more than 1000,
// which a limit of zero means too. next is the value of before for the page
// that follows; zero if there is none.
func (d *DB) Audit(ctx context.Context, name string, limit int, before int64) (page []tailnet.AuditEntry, next int64, err error) {
	limit = bound(limit, maxAuditPage)
	next, err = readPage(d.history(ctx, name, "id", limit, before), limit, &page, (*decoder).audit, func(r *auditRow) int64 { return r.Key.ID })
	return page, next, d.explain("read the audit log", err)
}

// Policies returns a page of the policies that the tailnet ever had, newest
// first; the first of all is the one in force. before and next are as for
// Audit, but number the commits, as Policy.Revision does; a page holds at most 50.
func (d *DB) Policies(ctx context.Context, name string, limit int, before int64) (page []*tailnet.Policy, next int64, err error) {
	limit = bound(limit, maxPolicyPage)
	next, err = readPage(d.history(ctx, name, "seq", limit, before), limit, &page, (*decoder).policy, func(r *policyRow) int64 { return r.Seq })
	return page, next, d.explain("read the history of the policy", err)
}

// history selects one row more than the page holds, which tells whether
// another page follows.
func (d *DB) history(ctx context.Context, name, number string, limit int, before int64) *gorm.DB {
	query := d.read.WithContext(ctx).Where("tailnet = ?", name).Order(number + " DESC").Limit(limit + 1)
	if before > 0 {
		query = query.Where(number+" < ?", before)
	}
	return query
}

func readPage[R, T any, P interface {
	*R
	row
}](query *gorm.DB, limit int, page *[]T, decode func(*decoder, *R) T, number func(*R) int64) (next int64, err error) {
	var numbers []int64
	err = load[R, T, P](query, page, func(dec *decoder, r *R) T {
		numbers = append(numbers, number(r))
		return decode(dec, r)
	})
	if err != nil {
		*page = nil
		return 0, err
	}
	if len(*page) > limit {
		*page = (*page)[:limit]
		next = numbers[limit-1]
	}
	return next, nil
}

func bound(limit, most int) int {
	if limit <= 0 {
		return most
	}
	return min(limit, most)
}
