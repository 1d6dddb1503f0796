package netmap

import (
	"encoding/binary"

	"tailscale.com/util/zstdframe"
)

// A Message is one complete, encoded message of a map stream: a length header
// of four bytes and the payload. It is immutable and may be sent to many
// sessions. The zero Message is no message.
type Message struct {
	parts [][]byte // the first is the header
	len   int
}

// Len returns the number of bytes on the wire, header included.
func (m Message) Len() int { return m.len }

// Parts returns the bytes on the wire in pieces, header first, so that they can
// go out in one write (net.Buffers). The outer slice is the caller's, the inner
// ones are shared: read only.
func (m Message) Parts() [][]byte {
	return append([][]byte(nil), m.parts...)
}

// AppendTo appends the bytes on the wire, header included, to b.
func (m Message) AppendTo(b []byte) []byte {
	for _, p := range m.parts {
		b = append(b, p...)
	}
	return b
}

// Text returns the JSON text of a message that was made for a viewer that is plain or not.
func (m Message) Text(plain bool) ([]byte, error) {
	if m.len == 0 {
		return nil, nil
	}
	payload := m.AppendTo(nil)[headerLen:]
	if plain {
		return payload, nil
	}
	return zstdframe.AppendDecode(nil, payload)
}

const headerLen = 4

// keepAliveText must not be the exact text {"KeepAlive":true}: clients
// remember its compressed form by reference to a buffer that they reuse, and from
// then on silently drop every message of the same length. The space prevents it.
const keepAliveText = `{"KeepAlive":true} `

// keepAliveLens are the lengths of that text's frames in the encodings that a
// server might ever have used: with and without checksum, compressed or raw, and ours. No
// other message has one of these lengths, a second line of defence.
var keepAliveLens = map[int]bool{18: true, 26: true, 27: true, 31: true, len(keepAliveText): true, len(appendFrame(nil, []byte(keepAliveText))): true}

// A piece is an encoded part of a message that messages share: JSON text, and
// the same as zstd frames. Immutable.
type piece struct {
	id    uint64 // of this encoder; names the piece in keys
	plain []byte
	z     []byte // empty for pieces that are always sent as part of a text
}

// pieceMin is the length from which a piece gets a frame of its own. Shorter
// ones are compressed again with the text around them, which takes
// microseconds and saves a third of the bytes.
const pieceMin = 768

func newPiece(id uint64, plain []byte) *piece {
	p := &piece{id: id, plain: plain}
	if len(plain) >= pieceMin {
		p.z = appendFrame(nil, plain)
	}
	return p
}

// A builder assembles a message from texts and shared parts. Texts between two
// parts are compressed together.
type builder struct {
	plain  bool // no zstd
	text   []byte
	parts  [][]byte
	len    int
	fields int
}

func newBuilder(plain bool) *builder {
	return &builder{plain: plain, text: append(make([]byte, 0, 1024), '{'), parts: [][]byte{nil}}
}

// field starts a field of the response.
func (b *builder) field(name string) {
	if b.fields++; b.fields > 1 {
		b.text = append(b.text, ',')
	}
	b.text = append(b.text, '"')
	b.text = append(b.text, name...)
	b.text = append(b.text, '"', ':')
}

func (b *builder) string(s string) { b.text = append(b.text, s...) }

// add appends a shared piece.
func (b *builder) add(p *piece) {
	switch {
	case len(p.z) == 0:
		b.text = append(b.text, p.plain...)
	case b.plain:
		b.flush()
		b.part(p.plain)
	default:
		b.flush()
		b.part(p.z)
	}
}

// part appends shared bytes in the message's encoding.
func (b *builder) part(p []byte) {
	b.parts = append(b.parts, p)
	b.len += len(p)
}

func (b *builder) flush() {
	switch {
	case len(b.text) == 0:
		return
	case b.plain:
		b.part(append([]byte(nil), b.text...))
	case len(b.text) == 1 && b.text[0] == ',':
		b.part(comma)
	default:
		b.part(appendFrame(nil, b.text))
	}
	b.text = b.text[:0]
}

// comma is the text between two shared parts.
var comma = appendLiteral(nil, []byte(","))

// message closes the response and returns it.
func (b *builder) message() Message {
	b.text = append(b.text, '}')
	return b.finish()
}

func (b *builder) finish() Message {
	b.flush()
	if keepAliveLens[b.len] {
		b.text = append(b.text, ' ')
		b.flush()
	}
	return b.seal()
}

func (b *builder) seal() Message {
	b.parts[0] = binary.LittleEndian.AppendUint32(nil, uint32(b.len))
	return Message{parts: b.parts, len: b.len + headerLen}
}

// keepAlives are the two forms of the one message.
var keepAlives = map[bool]Message{false: newKeepAlive(false), true: newKeepAlive(true)}

func newKeepAlive(plain bool) Message {
	b := newBuilder(plain)
	b.text = append(b.text[:0], keepAliveText...)
	b.flush()
	return b.seal()
}
