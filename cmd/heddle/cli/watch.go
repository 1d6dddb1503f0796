package cli

import (
	"context"
	"time"

	"heddle/cmd/heddle/cli/show"
	v1 "heddle/proto/heddle/v1"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// firstPause is before a stream is tried again, and doubles up to lastPause: a server that is back is
// noticed soon, and one that stays away is not asked all the time.
const (
	firstPause = 250 * time.Millisecond
	lastPause  = 5 * time.Second
)

// stay runs stream again and again, while what ends it is that the server or the connection went away,
// until ctx ends. stream calls heard with each sign of life; if there never was one, its error is final.
func (a *app) stay(ctx context.Context, stream func(heard func()) error) error {
	known, away, pause := false, false, firstPause
	for {
		err := stream(func() {
			if away {
				a.hint("heddle: the server is back")
			}
			known, away, pause = true, false, firstPause
		})
		if code := status.Code(err); !known || ctx.Err() != nil || code != codes.Unavailable && code != codes.Canceled {
			return err
		}
		if !away {
			a.hint("heddle: the server stopped or the connection broke; trying again until you stop this")
			away = true
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		pause = min(2*pause, lastPause)
		a.dial.conn.ResetConnectBackoff() // grpc's own grows to minutes
	}
}

// watch lists anew whenever something of a kind changes, until ctx ends.
func (a *app) watch(ctx context.Context, kind v1.WatchKind, list func() error) error {
	conn, err := a.server()
	if err != nil {
		return err
	}
	stale, req := true, &v1.WatchRequest{Kinds: []v1.WatchKind{kind}}
	return a.stay(ctx, func(heard func()) error {
		stream, err := v1.NewWatchServiceClient(conn).Watch(ctx, req)
		if err != nil {
			return err
		}
		for {
			news, err := stream.Recv()
			if err != nil {
				return err
			}
			heard()
			stale = stale || news.GetReset_() || len(news.GetChanges()) > 0
			if !stale || news.GetCursor() == "" {
				continue
			}
			show.Clear(a.out)
			if err := list(); err != nil {
				return err
			}
			stale, req.Cursor = false, news.GetCursor()
		}
	})
}
