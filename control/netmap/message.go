package netmap

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
