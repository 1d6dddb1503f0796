package netmap

import (
	"math/bits"
	"runtime"

	"tailscale.com/util/zstdframe"
)

// appendFrame appends plain to b as one or more zstd frames without checksum
// (Noise authenticates) and without frame content size: clients decode all
// frames of a message into one buffer and reallocate it for each frame that
// announces its size, which is quadratic.
func appendFrame(b, plain []byte) []byte {
	if len(plain) <= literalMax {
		return appendLiteral(b, plain)
	}
	encoders <- struct{}{}
	z := zstdframe.AppendEncode(nil, plain, zstdframe.WithChecksum(false))
	<-encoders
	return append(b, stripSize(z, len(plain))...)
}

// encoders bounds how many frames are compressed at a time: an encoder takes some
// megabytes, and more of them than cores are no faster.
var encoders = make(chan struct{}, runtime.GOMAXPROCS(0))

// stripSize rewrites the header of a single-segment frame without checksum and
// dictionary so that it names a window in place of the content size
// (RFC 8878, section 3.1.1.1).
func stripSize(z []byte, size int) []byte {
	descriptor := z[4]
	sizeLen := 1
	if flag := descriptor >> 6; flag > 0 {
		sizeLen = 1 << flag
	}
	const minWindowLog = 10
	windowLog := max(minWindowLog, bits.Len(uint(size-1)))
	out := make([]byte, 0, len(z)+1)
	out = append(out, z[:4]...)
	out = append(out, descriptor&^0xe0, byte(windowLog-minWindowLog)<<3)
	return append(out, z[5+sizeLen:]...)
}

// literalMax is the length up to which compressing does not pay.
const literalMax = 24

// appendLiteral appends a short text as a frame with one raw block and the
// smallest window, 1 KiB, which also bounds the text.
func appendLiteral(b, plain []byte) []byte {
	if len(plain) == 0 {
		return b
	}
	block := 1 | len(plain)<<3 // the last block, raw
	b = append(b, 0x28, 0xb5, 0x2f, 0xfd, 0, 0, byte(block), byte(block>>8), byte(block>>16))
	return append(b, plain...)
}
