package netmap

import (
	"log/slog"
	"time"

	"heddle/control/tailnet"

	"tailscale.com/tailcfg"
)

// Options configure an Encoder.
type Options struct {
	// ServerURL is the URL at which clients reach the server.
	ServerURL string
	// DisplayName is what client apps call the tailnet; empty means the base domain.
	DisplayName string
	// CacheBytes bounds the encoded parts that are kept for sharing; zero means
	// DefaultCacheBytes.
	CacheBytes int
	// Log hears of nodes that cannot be encoded; nil discards.
	Log *slog.Logger
}

// DefaultCacheBytes holds the buckets of ten thousand nodes for about fifty
// differing classes of viewers.
const DefaultCacheBytes = 64 << 20

// A Viewer is a map session as far as its messages depend on it.
type Viewer struct {
	ID        tailnet.NodeID
	CapVer    tailcfg.CapabilityVersion
	Plain     bool // the client did not ask for zstd
	OmitPeers bool // the client wants to know nothing of peers
}

// An Extra is a request to one client that rides alone in a message.
type Extra struct {
	PingRequest   *tailcfg.PingRequest
	PopBrowserURL string
}

// An Encoder makes the messages for the sessions of one tailnet. It holds what
// they share, and is safe for concurrent use.
type Encoder struct {
	opts Options
}

// NewEncoder returns an encoder for the snapshots of one tailnet.State.
func NewEncoder(o Options) *Encoder { return &Encoder{opts: o} }

// Full returns the first message of a session: everything that the viewer is
// to know. The error is NotFound if the snapshot does not have the viewer.
func (e *Encoder) Full(s *tailnet.Snapshot, v Viewer, now time.Time) (Message, error) {
	return Message{}, nil
}

// Delta returns what is new for the viewer in to, given that it knows all of
// from. If changed is false there is nothing to send. The error is NotFound if
// the viewer is not in to any more: it is to be sent Gone.
func (e *Encoder) Delta(from, to *tailnet.Snapshot, v Viewer, now time.Time) (m Message, changed bool, err error) {
	return Message{}, false, nil
}

// KeepAlive returns the message that only says that the server is there.
func (e *Encoder) KeepAlive(v Viewer) Message { return Message{} }

// Extra returns a message that changes no map.
func (e *Encoder) Extra(v Viewer, x Extra) Message { return Message{} }

// Gone returns the message for a client whose key is not good any more: its
// own node with an expiry in the past, so that it asks its person to log in.
func (e *Encoder) Gone(t *tailnet.Tombstone, v Viewer, now time.Time) Message { return Message{} }
