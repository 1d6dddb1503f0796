package netmap

import (
	"slices"
	"sync"

	"heddle/control/tailnet"
)

// A chunk is a run of encoded list elements, each about one node, that are
// compressed together. Immutable once it is complete.
type chunk struct {
	ids   []tailnet.NodeID // ascending
	items [][]byte
	len   int // of all items

	once sync.Once
	z    []byte
}

// chunkLen is the most elements in a chunk: where the viewer is among them
// they are compressed again without it.
const chunkLen = 256

// chunks is a list under construction.
type chunks []*chunk

func (c *chunks) add(id tailnet.NodeID, item []byte) {
	if n := len(*c); n == 0 || len((*c)[n-1].ids) == chunkLen {
		*c = append(*c, new(chunk))
	}
	last := (*c)[len(*c)-1]
	last.ids = append(last.ids, id)
	last.items = append(last.items, item)
	last.len += len(item)
}

func (c *chunk) has(id tailnet.NodeID) bool {
	_, ok := slices.BinarySearch(c.ids, id)
	return ok
}

// appendTo writes the elements, separated by commas, without that of one node.
func (c *chunk) appendTo(b []byte, without tailnet.NodeID) []byte {
	first := true
	for i, item := range c.items {
		if c.ids[i] == without {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, item...)
	}
	return b
}

func (c *chunk) frame() []byte {
	c.once.Do(func() { c.z = appendFrame(nil, c.appendTo(nil, 0)) })
	return c.z
}

// only reports whether the list has nothing but what is about one node.
func only(list []*chunk, id tailnet.NodeID) bool {
	return len(list) == 0 || len(list) == 1 && len(list[0].ids) == 1 && list[0].ids[0] == id
}

// chunks writes a field with a list, without what is about the viewer; if
// nothing is left it writes nothing.
func (b *builder) chunks(field string, list []*chunk, viewer tailnet.NodeID) {
	if only(list, viewer) {
		return
	}
	b.field(field)
	b.string("[")
	first := true
	for _, c := range list {
		cut := c.has(viewer)
		if cut && len(c.ids) == 1 {
			continue
		}
		if !first {
			b.string(",")
		}
		first = false
		if cut || b.plain || c.len < pieceMin {
			b.text = c.appendTo(b.text, viewer)
			continue
		}
		b.flush()
		b.part(c.frame())
	}
	b.string("]")
}
