package h2

import (
	"encoding/binary"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
)

// appendHeader appends the header of a frame (RFC 9113, section 4.1).
func appendHeader(b []byte, length int, kind http2.FrameType, flags http2.Flags, stream uint32) []byte {
	b = append(b, byte(length>>16), byte(length>>8), byte(length), byte(kind), byte(flags))
	return binary.BigEndian.AppendUint32(b, stream)
}

// frameHeaderLen is what appendHeader appends.
const frameHeaderLen = 9

// settings are the server's. Without a header table in either direction a
// waiting connection has none to keep.
var settings = func() []byte {
	list := []http2.Setting{
		{ID: http2.SettingMaxConcurrentStreams, Val: offerStreams},
		{ID: http2.SettingMaxHeaderListSize, Val: maxHeaders},
		{ID: http2.SettingHeaderTableSize, Val: 0},
	}
	b := appendHeader(nil, 6*len(list), http2.FrameSettings, 0, 0)
	for _, s := range list {
		b = binary.BigEndian.AppendUint16(b, uint16(s.ID))
		b = binary.BigEndian.AppendUint32(b, s.Val)
	}
	return b
}()

var settingsAck = appendHeader(nil, 0, http2.FrameSettings, http2.FlagSettingsAck, 0)

func pingFrame(data [8]byte, ack bool) []byte {
	var flags http2.Flags
	if ack {
		flags = http2.FlagPingAck
	}
	return append(appendHeader(nil, len(data), http2.FramePing, flags, 0), data[:]...)
}

func resetFrame(stream uint32, code http2.ErrCode) []byte {
	return binary.BigEndian.AppendUint32(appendHeader(nil, 4, http2.FrameRSTStream, 0, stream), uint32(code))
}

func goAwayFrame(last uint32, code http2.ErrCode) []byte {
	b := appendHeader(nil, 8, http2.FrameGoAway, 0, 0)
	b = binary.BigEndian.AppendUint32(b, last)
	return binary.BigEndian.AppendUint32(b, uint32(code))
}

func appendWindowUpdate(b []byte, stream uint32, by int) []byte {
	return binary.BigEndian.AppendUint32(appendHeader(b, 4, http2.FrameWindowUpdate, 0, stream), uint32(by))
}

// headersFrames returns the HEADERS frame, and CONTINUATION frames if there is much
// to say, that begin an answer.
func headersFrames(stream uint32, status int, h http.Header, end bool) []byte {
	block := appendField(nil, ":status", strconv.Itoa(status))
	for name, values := range h {
		if hopByHop[name] {
			continue
		}
		for _, v := range values {
			block = appendField(block, strings.ToLower(name), v)
		}
	}
	kind, flags := http2.FrameHeaders, http2.Flags(0)
	if end {
		flags = http2.FlagHeadersEndStream
	}
	var out []byte
	for {
		n := min(len(block), frameLen)
		if n == len(block) {
			flags |= http2.FlagHeadersEndHeaders
		}
		out = append(appendHeader(out, n, kind, flags, stream), block[:n]...)
		if block = block[n:]; len(block) == 0 {
			return out
		}
		kind, flags = http2.FrameContinuation, 0
	}
}

// hopByHop are the header fields that HTTP/2 does not have (RFC 9113, section 8.2.2).
var hopByHop = map[string]bool{"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Transfer-Encoding": true, "Upgrade": true}

// appendField appends a header field as a literal that enters no table
// (RFC 7541, section 6.2.2): answers have next to no headers, and a table would be kept for each connection.
func appendField(b []byte, name, value string) []byte {
	b = append(b, 0)
	b = appendText(b, name)
	return appendText(b, value)
}

// appendText appends a string without Huffman coding (RFC 7541, sections 5.1 and 5.2).
func appendText(b []byte, s string) []byte {
	n := len(s)
	if n < 127 {
		b = append(b, byte(n))
	} else {
		b = binary.AppendUvarint(append(b, 127), uint64(n-127))
	}
	return append(b, s...)
}
