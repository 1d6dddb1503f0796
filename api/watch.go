package api

import (
	"cmp"
	"context"
	"time"

	"heddle/api/callers"
	"heddle/api/news"
	"heddle/api/wire"
	"heddle/control/tailnet"
	v1 "heddle/proto/heddle/v1"
)

const (
	// maxWatchers bounds the streams: each looks at every change.
	maxWatchers = 256
	// watchChunk is how many changes one message has at most, some 500 kB.
	watchChunk = 500
	// watchPause is how often a watcher is sent news at most.
	watchPause = 200 * time.Millisecond
	// watchBeat is how often it is sent something at least, so that both sides know of
	// each other, and so that a key which has expired ends its stream.
	watchBeat = 30 * time.Second
)

type watches struct {
	*Server
	v1.UnimplementedWatchServiceServer
}

// watchable is the table of kinds on this wire, and what one must be allowed to read for them.
var watchable = []struct {
	kind v1.WatchKind
	is   news.Kind
	area tailnet.Area
}{
	{v1.WatchKind_WATCH_KIND_NODE, news.Nodes, tailnet.AreaDevices},
	{v1.WatchKind_WATCH_KIND_USER, news.Users, tailnet.AreaUsers},
	{v1.WatchKind_WATCH_KIND_PRE_AUTH_KEY, news.AuthKeys, tailnet.AreaAuthKeys},
	{v1.WatchKind_WATCH_KIND_API_KEY, news.APIKeys, tailnet.AreaAPIKeys},
	{v1.WatchKind_WATCH_KIND_POLICY, news.Policy, tailnet.AreaPolicy},
	{v1.WatchKind_WATCH_KIND_OAUTH_CLIENT, news.Clients, tailnet.AreaOAuth},
}

// watched returns the kinds that are asked for, if the actor may see all of them.
func (s watches) watched(a tailnet.Actor, asked []v1.WatchKind) (news.Kind, error) {
	var kinds news.Kind
	for _, one := range asked {
		known := false
		for _, w := range watchable {
			if w.kind == one {
				kinds, known = kinds|w.is, true
			}
		}
		if !known {
			return 0, tailnet.Errorf(tailnet.Invalid, "nothing of the kind %s can be watched", one)
		}
	}
	if kinds == 0 {
		kinds = news.Every
	}
	return kinds, s.mayWatch(a, kinds)
}

func (s watches) mayWatch(a tailnet.Actor, kinds news.Kind) error {
	for _, w := range watchable {
		if kinds&w.is != 0 && !s.snapshot().Can(a, tailnet.Read(w.area)) {
			return tailnet.Errorf(tailnet.Denied, "%s may not watch %s: it lacks the right %s", a, w.kind, tailnet.Read(w.area))
		}
	}
	return nil
}

func (s watches) Watch(req *v1.WatchRequest, stream v1.WatchService_WatchServer) error {
	ctx := stream.Context()
	id := callerOf(ctx)
	kinds, err := s.watched(id.Actor, req.GetKinds())
	if err != nil {
		return err
	}
	done, err := s.watching()
	if err != nil {
		return err
	}
	defer done()
	old, cursor := s.places.Get(req.GetCursor(), kinds, s.opts.Now()), req.GetCursor()
	for begun := false; ; begun = true {
		now := s.snapshot()
		items := news.Between(old, now, kinds)
		if !begun || len(items) > 0 {
			cursor = s.places.Put(now, kinds, s.opts.Now())
			err = s.tell(stream, now, items, cursor, old == nil)
		} else {
			err = stream.Send(&v1.WatchResponse{Cursor: cursor})
		}
		if err != nil {
			return err
		}
		old = now
		if err := s.news(ctx, id, old, kinds); err != nil {
			return err
		}
	}
}

// watching lets one more stream look at every change; done ends that.
func (s *Server) watching() (done func(), err error) {
	select {
	case s.watchers <- struct{}{}:
		return func() { <-s.watchers }, nil
	default:
		return nil, tailnet.Errorf(tailnet.Exhausted, "%d programs watch this server already; try again later", maxWatchers)
	}
}

// news waits until there are news of some kind, or it is time for a sign of life. It is an
// error if the caller may not hear them any more.
func (s watches) news(ctx context.Context, id callers.Caller, old *tailnet.Snapshot, kinds news.Kind) error {
	pause, beat := time.NewTimer(watchPause), time.NewTimer(watchBeat)
	defer pause.Stop()
	defer beat.Stop()
	select {
	case <-pause.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	for beaten := false; ; {
		at := s.snapshot()
		if err := cmp.Or(s.stillValid(id), s.mayWatch(id.Actor, kinds)); err != nil {
			return err
		}
		if beaten || len(news.Between(old, at, kinds)) > 0 {
			return nil
		}
		select {
		case <-at.Superseded():
		case <-beat.C:
			beaten = true
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tell sends changes in messages of a bounded size, the last one with the cursor.
func (s watches) tell(stream v1.WatchService_WatchServer, snap *tailnet.Snapshot, items []news.Item, cursor string, reset bool) error {
	for {
		n := min(len(items), watchChunk)
		resp := &v1.WatchResponse{Reset_: reset}
		for _, item := range items[:n] {
			resp.Changes = append(resp.Changes, s.protoChange(snap, item))
		}
		if items, reset = items[n:], false; len(items) == 0 {
			resp.Cursor = cursor
		}
		if err := stream.Send(resp); err != nil || len(items) == 0 {
			return err
		}
	}
}

// protoChange returns a thing as it is in a snapshot.
func (s watches) protoChange(snap *tailnet.Snapshot, item news.Item) *v1.Change {
	switch item.Kind {
	case news.Nodes:
		if n := snap.Node(tailnet.NodeID(item.ID)); n != nil {
			return &v1.Change{Thing: &v1.Change_Node{Node: wire.Node(snap, n, s.opts.Now())}}
		}
	case news.Users:
		if u := snap.User(tailnet.UserID(item.ID)); u != nil {
			return &v1.Change{Thing: &v1.Change_User{User: wire.User(u)}}
		}
	case news.AuthKeys:
		if k := snap.AuthKey(tailnet.AuthKeyID(item.ID)); k != nil {
			return &v1.Change{Thing: &v1.Change_PreAuthKey{PreAuthKey: wire.AuthKey(snap, k, s.opts.Now())}}
		}
	case news.APIKeys:
		if k := snap.APIKey(tailnet.APIKeyID(item.ID)); k != nil {
			return &v1.Change{Thing: &v1.Change_ApiKey{ApiKey: wire.APIKey(snap, k, s.opts.Now())}}
		}
	case news.Clients:
		if k := snap.APIKey(tailnet.APIKeyID(item.ID)); k != nil {
			return &v1.Change{Thing: &v1.Change_OauthClient{OauthClient: wire.Client(snap, k)}}
		}
	case news.Policy:
		p := snap.Policy()
		return &v1.Change{Thing: &v1.Change_Policy{Policy: &v1.PolicyRef{Etag: p.ETag, Revision: uint64(p.Revision)}}}
	}
	gone := &v1.Gone{Id: uint64(item.ID)}
	for _, w := range watchable {
		if w.is == item.Kind {
			gone.Kind = w.kind
		}
	}
	return &v1.Change{Thing: &v1.Change_Gone{Gone: gone}}
}
