package api

import (
	"cmp"
	"context"
	"strconv"
	"time"

	"heddle/api/wire"
	"heddle/control/tailnet"
	v1 "heddle/proto/heddle/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// AuditLog is where changes are kept.
type AuditLog interface {
	// Audit returns the entries that q selects, and what to set q.Before (with q.Oldest:
	// q.After) to for those that follow; zero if there are none.
	Audit(ctx context.Context, name string, q tailnet.AuditQuery) (page []tailnet.AuditRecord, next int64, err error)
}

const (
	// reasonKey is the metadata with the reason of a change, in UTF-8; reasonHeader the same in
	// ASCII, for who cannot send the other.
	reasonKey    = "heddle-reason-bin"
	reasonHeader = "heddle-reason"
)

// reasonOf returns why the caller does what it does; "" if it does not tell.
func reasonOf(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	for _, key := range []string{reasonKey, reasonHeader} {
		if v := md.Get(key); len(v) > 0 {
			return tailnet.CleanReason(v[0])
		}
	}
	return ""
}

type audit struct {
	*Server
	v1.UnimplementedAuditServiceServer
}

var errNoLog = tailnet.Errorf(tailnet.Unavailable, "this server keeps no audit log")

func (s audit) ListAuditEntries(ctx context.Context, req *v1.ListAuditEntriesRequest) (*v1.ListAuditEntriesResponse, error) {
	q, err := auditQuery(req.GetFilter())
	if err != nil {
		return nil, err
	}
	const usual, most = 100, 1000
	q.Limit = int(min(cmp.Or(req.GetPageSize(), usual), most))
	if token := req.GetPageToken(); token != "" {
		if q.Before, err = strconv.ParseInt(token, 36, 64); err != nil || q.Before <= 0 {
			return nil, tailnet.Errorf(tailnet.Invalid, "page_token %.40q is not from an earlier response", token)
		}
	}
	if s.opts.Audit == nil {
		return nil, errNoLog
	}
	page, next, err := s.opts.Audit.Audit(ctx, tailnet.Default, q)
	if err != nil {
		return nil, err
	}
	resp := &v1.ListAuditEntriesResponse{}
	for i := range page {
		resp.Entries = append(resp.Entries, protoAudit(&page[i]))
	}
	if next > 0 {
		resp.NextPageToken = strconv.FormatInt(next, 36)
	}
	return resp, nil
}

// tailPause is the least time between two looks for news, however much changes.
const tailPause = 200 * time.Millisecond

// TailAuditEntries looks at the log whenever something changed.
func (s audit) TailAuditEntries(req *v1.TailAuditEntriesRequest, to grpc.ServerStreamingServer[v1.TailAuditEntriesResponse]) error {
	ctx := to.Context()
	q, err := auditQuery(req.GetFilter())
	if err != nil {
		return err
	}
	if s.opts.Audit == nil {
		return errNoLog
	}
	done, err := s.watching()
	if err != nil {
		return err
	}
	defer done()
	q.Oldest, q.After = true, int64(req.GetAfter())
	if q.After == 0 {
		latest, _, err := s.opts.Audit.Audit(ctx, tailnet.Default, tailnet.AuditQuery{Limit: 1})
		if err != nil {
			return err
		}
		for _, e := range latest {
			q.After = e.ID
		}
	}
	for {
		snap := s.snapshot() // what changes while the log is read supersedes it
		if err := s.tail(ctx, &q, to); err != nil {
			return err
		}
		select {
		case <-snap.Superseded():
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-time.After(tailPause):
		case <-ctx.Done():
			return ctx.Err()
		}
		id := callerOf(ctx)
		if err := s.stillValid(id); err != nil {
			return err
		}
		if err := s.mayUse(id.Actor, v1.AuditService_TailAuditEntries_FullMethodName); err != nil {
			return err
		}
	}
}

// tail sends what there is after q.After, and moves that.
func (s audit) tail(ctx context.Context, q *tailnet.AuditQuery, to grpc.ServerStreamingServer[v1.TailAuditEntriesResponse]) error {
	for more := true; more; {
		page, next, err := s.opts.Audit.Audit(ctx, tailnet.Default, *q)
		if err != nil {
			return err
		}
		for i := range page {
			if err := to.Send(&v1.TailAuditEntriesResponse{Entry: protoAudit(&page[i])}); err != nil {
				return err
			}
			q.After = page[i].ID
		}
		more = next > 0
	}
	return nil
}

func auditQuery(f *v1.AuditFilter) (tailnet.AuditQuery, error) {
	q := tailnet.AuditQuery{Actor: f.GetActor(), Action: f.GetAction(), Target: f.GetTarget()}
	for _, t := range []struct {
		name string
		from *timestamppb.Timestamp
		to   *time.Time
	}{{"since", f.GetSince(), &q.Since}, {"until", f.GetUntil(), &q.Until}} {
		if t.from == nil {
			continue
		}
		if err := t.from.CheckValid(); err != nil {
			return q, tailnet.Errorf(tailnet.Invalid, "%s is not a valid time", t.name)
		}
		*t.to = t.from.AsTime()
	}
	return q, nil
}

func protoAudit(e *tailnet.AuditRecord) *v1.AuditEntry {
	out := &v1.AuditEntry{
		Id: uint64(e.ID), At: wire.Time(e.At), Action: e.Action, Target: e.Target, Reason: e.Actor.Reason, Commit: uint64(e.Seq),
		Actor: &v1.AuditActor{Kind: string(e.Actor.Kind), Name: e.Actor.Name, Role: string(e.Actor.Role), From: e.Actor.From},
	}
	for _, c := range e.Changes {
		out.Changes = append(out.Changes, &v1.AuditChange{Field: c.Field, From: c.From, To: c.To})
	}
	return out
}
