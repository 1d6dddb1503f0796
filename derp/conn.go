package derp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync/atomic"

	"go4.org/mem"
	"tailscale.com/derp"
	"tailscale.com/types/key"
)

const (
	// maxPending bounds the handshakes that strangers can have under way; each
	// holds a connection and some kilobytes for up to 10 s (derpserver's
	// deadline).
	maxPending = 1024

	// maxPerKey bounds the connections of one admitted key. A client needs one;
	// a few dead ones linger while it moves between networks.
	maxPerKey = 8

	// maxClientInfo bounds the first frame of a stranger, which derpserver would
	// buffer up to 256 KiB. Real ones are about 200 bytes.
	maxClientInfo = 4 << 10

	// helloLen is what the gate reads to learn the key: frame type, length, key.
	helloLen = 1 + 4 + derp.KeyLen
)

var (
	errRefused = errors.New("the key is not admitted")
	errCut     = errors.New("the connection was cut by the relay")
)

// conn is one connection to the relay, from its handshake to its end. It is the
// reader that derpserver reads the client from. The first frame that a client
// sends carries its public key in the clear; conn asks about that key before it
// lets derpserver see the frame. derpserver then proves that the client owns the
// key.
//
// derpserver's own hook for this is an HTTP request through
// http.DefaultClient, and it has no hook at all for cutting a client.
type conn struct {
	ctx   context.Context
	src   netip.Addr
	r     io.Reader // the client's bytes
	abort func()    // makes a blocked or later read of r fail; does not block
	relay *Relay

	isCut atomic.Bool

	// Owned by the goroutine that reads.
	hello []byte // of the first frame, what derpserver has yet to read
	rest  int    // of the first frame, what is still unread in r
	stage stage

	key key.NodePublic // set before the connection is in connTable.byKey
}

// stage is how far the client's handshake is.
type stage int

const (
	stageHello  stage = iota // the first frame's head is awaited
	stageProof               // derpserver reads the first frame
	stageProven              // derpserver accepted it and reads on
)

// Read implements io.Reader for derpserver.
func (c *conn) Read(p []byte) (int, error) {
	if c.isCut.Load() {
		return 0, errCut
	}
	if c.stage == stageHello {
		if err := c.readHello(); err != nil {
			return 0, err
		}
		c.stage = stageProof
	}
	if c.stage == stageProof {
		if len(c.hello) > 0 {
			n := copy(p, c.hello)
			c.hello = c.hello[n:]
			return n, nil
		}
		if c.rest > 0 {
			// Never more than the first frame: so the read after it tells that
			// derpserver accepted it.
			n, err := c.r.Read(p[:min(len(p), c.rest)])
			c.rest -= n
			return n, err
		}
		c.stage = stageProven
		c.relay.conns.proven(c)
	}
	return c.r.Read(p)
}

// readHello reads the head of the first frame and asks whether its key may in.
func (c *conn) readHello() error {
	var head [helloLen]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return err
	}
	if t := derp.FrameType(head[0]); t != derp.FrameClientInfo {
		return fmt.Errorf("the first frame is of type %d", t)
	}
	size := binary.BigEndian.Uint32(head[1:5])
	if size < derp.KeyLen+derp.NonceLen || size > maxClientInfo {
		return fmt.Errorf("the first frame has %d bytes", size)
	}
	c.key = key.NodePublicFromRaw32(mem.B(head[5:]))
	// Known before asked: whoever changes what Admit answers and calls Evict
	// afterwards finds either this connection or a refusal.
	c.relay.conns.claim(c)
	if !c.relay.ask(c.ctx, c.key, c.src) {
		c.relay.refused.Add(1)
		return errRefused
	}
	c.hello = head[:]
	c.rest = int(size) - derp.KeyLen
	return nil
}

// cut makes the connection end, without waiting for that. It reports whether it
// was the first to do so.
func (c *conn) cut() bool {
	if c.isCut.Swap(true) {
		return false
	}
	c.abort()
	return true
}

// buffered joins what a hijacked connection's buffer already holds and the rest
// of the connection, so that the buffer can be pointed at a conn instead.
func buffered(br *bufio.Reader, rest io.Reader) (io.Reader, error) {
	if br.Buffered() == 0 {
		return rest, nil
	}
	b, err := br.Peek(br.Buffered())
	if err != nil {
		return nil, err
	}
	return io.MultiReader(bytes.NewReader(bytes.Clone(b)), rest), nil
}
