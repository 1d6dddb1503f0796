package db

import (
	"context"
	"fmt"

	"heddle/control/tailnet"

	"gorm.io/gorm"
)

// The most that one page of history holds, so that nobody makes the server
// keep all of it in memory.
const (
	maxAuditPage  = 1000
	maxPolicyPage = 50
)

// Policies returns a page of the versions of the policy that the tailnet ever
// had, newest first, without their texts; the first of all is the one in force.
// The page holds versions below before (the newest if that is zero) and at most limit of them, never more
// than 50, which a limit of zero means too. next is the value of before for the page
// that follows; zero if there is none. Both are numbers of commits, as Policy.Revision is.
func (d *DB) Policies(ctx context.Context, name string, limit int, before int64) (page []tailnet.PolicyVersion, next int64, err error) {
	limit = bound(limit, maxPolicyPage)
	size := fmt.Sprintf(d.engine.dialect().octets, "source")
	query := d.history(ctx, name, "seq", limit, before).Select("seq, etag, updated_at, updated_by, " + size + " AS size")
	next, err = readPage(query, limit, &page, (*decoder).version, func(r *versionRow) int64 { return r.Seq })
	return page, next, d.explain("read the history of the policy", err)
}

// Policy returns the policy of a commit, or if revision is zero the newest one
// whose ETag begins with etag; nil if there is none.
func (d *DB) Policy(ctx context.Context, name string, revision int64, etag string) (*tailnet.Policy, error) {
	query := d.read.WithContext(ctx).Where("tailnet = ?", name).Order("seq DESC").Limit(1)
	if revision != 0 {
		query = query.Where("seq = ?", revision)
	} else {
		query = query.Where("substr(etag, 1, ?) = ?", len(etag), etag)
	}
	var found []*tailnet.Policy
	if err := load[policyRow](query, &found, (*decoder).policy); err != nil {
		return nil, d.explain("read a policy of the history", err)
	}
	if len(found) == 0 {
		return nil, nil
	}
	return found[0], nil
}

// A versionRow is a policyRow without its text.
type versionRow struct {
	Seq       int64
	ETag      string `gorm:"column:etag"`
	UpdatedAt *string
	UpdatedBy string
	Size      int
}

func (versionRow) TableName() string { return "policies" }
func (r versionRow) id() any         { return r.Seq }

func (d *decoder) version(r *versionRow) tailnet.PolicyVersion {
	return tailnet.PolicyVersion{
		Revision: tailnet.Seq(r.Seq), ETag: r.ETag, Updated: d.time("updated_at", r.UpdatedAt), By: r.UpdatedBy, Size: r.Size,
	}
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
