// Package audit owns `heddle audit`: what was changed, by whom and why, in words. It
// refuses to know how the server is reached and how output is chosen.
package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"heddle/cmd/heddle/cli/show"
	"heddle/cmd/heddle/cli/span"
	v1 "heddle/proto/heddle/v1"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Tools are what the commands need of the command line around them.
type Tools struct {
	Server func() (*grpc.ClientConn, error)
	List   func(list []proto.Message, hint string, table func()) error // as text, JSON or YAML
	Table  func(*show.Table)
	Plain  func() bool       // whether text is wanted, and not JSON or YAML
	Usage  func(error) error // marks a mistake in the command line
	Now    func() time.Time
	Out    io.Writer
	// Stay runs a stream anew when the server or the connection went away; the stream calls heard
	// with each sign of life.
	Stay func(ctx context.Context, stream func(heard func()) error) error
}

// Command is `audit`.
func Command(t Tools) *cobra.Command {
	list := &cobra.Command{
		Use:   "list",
		Short: "List what was changed, the newest first",
		Example: `  heddle audit list
  heddle audit list --action node --since 7d
  heddle audit list --actor alice --target laptop
  heddle audit list --since 2026-01-01 --until 2026-02-01 --limit 0 -o json > january.json`,
		Args: cobra.NoArgs,
	}
	f, limit := newFilter(t, list), list.Flags().Int("limit", 100, "at most `N` entries; 0 for all")
	list.RunE = func(cmd *cobra.Command, _ []string) error {
		filter, err := f.get()
		if err != nil {
			return err
		}
		if *limit < 0 {
			return t.Usage(errors.New("--limit must not be negative"))
		}
		entries, err := read(cmd.Context(), t, filter, *limit)
		if err != nil {
			return err
		}
		return t.List(entries, "There are no such entries.", func() { t.Table(table(entries)) })
	}

	tail := &cobra.Command{
		Use:   "tail",
		Short: "Show changes as they happen",
		Long: `Shows changes as they happen, until you stop it; if the server goes away
meanwhile, it goes on when the server is back. With -o json each is an
object on a line of its own.`,
		Example: "  heddle audit tail\n  heddle audit tail --action policy.set\n  heddle audit tail --after 1200 -o json",
		Args:    cobra.NoArgs,
	}
	g, after := newFilter(t, tail), tail.Flags().Uint64("after", 0, "begin with what follows entry `ID`")
	tail.RunE = func(cmd *cobra.Command, _ []string) error {
		filter, err := g.get()
		if err != nil {
			return err
		}
		return follow(cmd.Context(), t, &v1.TailAuditEntriesRequest{Filter: filter, After: *after})
	}
	group := &cobra.Command{Use: "audit", Short: "What was changed, by whom, from where and why", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	group.AddCommand(list, tail)
	return group
}

// filter is what the flags select.
type filter struct {
	t            Tools
	msg          v1.AuditFilter
	since, until string
}

func newFilter(t Tools, cmd *cobra.Command) *filter {
	f := &filter{t: t}
	flags := cmd.Flags()
	flags.StringVar(&f.msg.Actor, "actor", "", "only by whom has `TEXT` in kind, name or address")
	flags.StringVar(&f.msg.Action, "action", "", "only that `ACTION`, such as node.delete, or all of node")
	flags.StringVar(&f.msg.Target, "target", "", "only of what has `TEXT` in its name")
	flags.StringVar(&f.since, "since", "", "only from `TIME` on: 24h, 7d, 2026-01-31 or 2026-01-31T12:00:00Z")
	flags.StringVar(&f.until, "until", "", "only before `TIME`")
	return f
}

func (f *filter) get() (*v1.AuditFilter, error) {
	for _, t := range []struct {
		flag, text string
		to         **timestamppb.Timestamp
	}{{"since", f.since, &f.msg.Since}, {"until", f.until, &f.msg.Until}} {
		if t.text == "" {
			continue
		}
		at, err := moment(t.text, f.t.Now())
		if err != nil {
			return nil, f.t.Usage(fmt.Errorf("--%s: %w", t.flag, err))
		}
		*t.to = timestamppb.New(at)
	}
	return &f.msg, nil
}

// moment understands a time, a date, and how long ago.
func moment(text string, now time.Time) (time.Time, error) {
	if d, err := span.Parse(text); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time: write 24h, 7d, 2026-01-31 or 2026-01-31T12:00:00Z", text)
}

// read returns the newest entries; all if most is zero.
func read(ctx context.Context, t Tools, filter *v1.AuditFilter, most int) ([]proto.Message, error) {
	conn, err := t.Server()
	if err != nil {
		return nil, err
	}
	const page = 1000
	req := &v1.ListAuditEntriesRequest{Filter: filter, PageSize: page}
	var all []proto.Message
	for {
		if left := most - len(all); most > 0 {
			req.PageSize = uint32(min(left, page))
		}
		resp, err := v1.NewAuditServiceClient(conn).ListAuditEntries(ctx, req)
		if err != nil {
			return nil, err
		}
		for _, e := range resp.GetEntries() {
			all = append(all, e)
		}
		if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" || most > 0 && len(all) >= most {
			return all, nil
		}
	}
}

// follow prints entries until ctx ends, which is no error. After the server was away it goes on
// behind the last entry.
func follow(ctx context.Context, t Tools, req *v1.TailAuditEntriesRequest) error {
	conn, err := t.Server()
	if err != nil {
		return err
	}
	c := v1.NewAuditServiceClient(conn)
	err = t.Stay(ctx, func(heard func()) error { return tail(ctx, t, c, req, heard) })
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled) {
		return nil
	}
	return err
}

// tail prints entries until the stream ends, and moves req.After.
func tail(ctx context.Context, t Tools, c v1.AuditServiceClient, req *v1.TailAuditEntriesRequest, heard func()) error {
	// A stream without entries gives no sign of life, and does not tell where "from now on" is.
	newest, err := c.ListAuditEntries(ctx, &v1.ListAuditEntriesRequest{PageSize: 1})
	if err != nil {
		return err
	}
	heard()
	for _, e := range newest.GetEntries() {
		if req.After == 0 {
			req.After = e.GetId()
		}
	}
	stream, err := c.TailAuditEntries(ctx, req)
	if err != nil {
		return err
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		line := lineOf(resp.GetEntry())
		if !t.Plain() {
			text, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(resp.GetEntry())
			if err != nil {
				return err
			}
			line = string(text)
		}
		if _, err := fmt.Fprintln(t.Out, line); err != nil {
			return err
		}
		req.After = resp.GetEntry().GetId()
	}
}

func table(entries []proto.Message) *show.Table {
	t := show.NewTable("ID", "TIME", "WHO", "FROM", "ACTION", "TARGET", "CHANGES", "REASON")
	t.Cut, t.Drop = []string{"CHANGES", "REASON", "TARGET"}, []string{"FROM", "ID"}
	for _, m := range entries {
		e := m.(*v1.AuditEntry)
		t.Add(e.GetId(), when(e), who(e), or(e.GetActor().GetFrom()), e.GetAction(), e.GetTarget(), or(changes(e)), or(e.GetReason()))
	}
	return t
}

// lineOf is an entry on one line.
func lineOf(e *v1.AuditEntry) string {
	text := fmt.Sprintf("%s  %s  %s  %s", when(e), who(e), e.GetAction(), e.GetTarget())
	if from := e.GetActor().GetFrom(); from != "" {
		text += "  from " + from
	}
	if c := changes(e); c != "" {
		text += "  " + c
	}
	if e.GetReason() != "" {
		text += "  because: " + e.GetReason()
	}
	return strings.Map(show.OneLine, show.Clean(text))
}

func when(e *v1.AuditEntry) string { return e.GetAt().AsTime().Local().Format(time.DateTime) }

func who(e *v1.AuditEntry) string { return e.GetActor().GetKind() + " " + e.GetActor().GetName() }

func changes(e *v1.AuditEntry) string {
	var list []string
	for _, c := range e.GetChanges() {
		switch {
		case c.GetFrom() == "":
			list = append(list, fmt.Sprintf("%s: %s", c.GetField(), c.GetTo()))
		case c.GetTo() == "":
			list = append(list, fmt.Sprintf("%s: was %s", c.GetField(), c.GetFrom()))
		default:
			list = append(list, fmt.Sprintf("%s: %s → %s", c.GetField(), c.GetFrom(), c.GetTo()))
		}
	}
	return strings.Join(list, "; ")
}

func or(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
