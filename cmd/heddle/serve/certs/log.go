package certs

import (
	"context"
	"log/slog"

	"go.uber.org/zap/zapcore"
)

// core passes on what the ACME library logs. Its news are details for us; of
// what it says for debugging nothing is wanted, since whole requests are in it.
type core struct{ log *slog.Logger }

var levels = map[zapcore.Level]slog.Level{
	zapcore.InfoLevel: slog.LevelDebug, zapcore.WarnLevel: slog.LevelWarn,
}

// level is that of an entry in our log.
func level(l zapcore.Level) slog.Level {
	if l, ok := levels[l]; ok {
		return l
	}
	return slog.LevelError
}

func (c core) Enabled(l zapcore.Level) bool {
	return l >= zapcore.InfoLevel && c.log.Enabled(context.Background(), level(l))
}

func (c core) With(fields []zapcore.Field) zapcore.Core { return core{c.log.With(attrs(fields)...)} }

func (c core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	c.log.With("text", e.Message).Log(context.Background(), level(e.Level), "acme library says", attrs(fields)...)
	return nil
}

func (c core) Sync() error { return nil }

func attrs(fields []zapcore.Field) []any {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	out := make([]any, 0, 2*len(fields))
	for _, f := range fields {
		if v, ok := enc.Fields[f.Key]; ok {
			out = append(out, f.Key, v)
		}
	}
	return out
}
