package netmap

import (
	"hash/maphash"
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

// chunkSpan is the range of IDs of a chunk. Ranges are aligned, so that
// lists which differ in some places have the rest in common; where the viewer is
// in one it is compressed again without it.
const chunkSpan = 256

// chunks is a list under construction.
type chunks []*chunk

// add appends an element; IDs ascend.
func (c *chunks) add(id tailnet.NodeID, item []byte) {
	if n := len(*c); n == 0 || (*c)[n-1].ids[0]/chunkSpan != id/chunkSpan {
		*c = append(*c, new(chunk))
	}
	last := (*c)[len(*c)-1]
	last.ids = append(last.ids, id)
	last.items = append(last.items, item)
	last.len += len(item)
}

type chunkKey struct {
	first tailnet.NodeID
	hash  uint64
}

// share returns the list with those of its chunks that the diff has already in
// place of their equals. The items must be shared too.
func (c chunks) share(d *diff) chunks {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, own := range c {
		if own.len < pieceMin {
			continue
		}
		key := chunkKey{first: own.ids[0]}
		for _, item := range own.items {
			key.hash = key.hash*0x100000001b3 ^ maphash.Comparable(seed, &item[0])
		}
		if known, ok := d.chunks[key]; ok && slices.EqualFunc(known.items, own.items, func(a, b []byte) bool { return &a[0] == &b[0] }) {
			c[i] = known
			continue
		}
		d.chunks[key] = own
	}
	return c
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
