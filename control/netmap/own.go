package netmap

import (
	"bytes"
	"encoding/binary"
	"slices"

	"heddle/control/tailnet"
	"heddle/policy"
)

// own is the part of a delta that is not about peers. Most of it consists of
// pieces that many viewers have in common.
type own struct {
	self    []byte // the viewer's node; nil if unchanged
	profile []byte // of its user, if that changed
	health  []byte // what its person should know, if that changed
	domain  string
	dns     *piece
	derp    *piece
	filters []filterChange
	newSSH  bool
	ssh     []*piece // its rules, if newSSH
}

func (e *Encoder) ownChanges(d *diff, p *peersDelta, from, to *tailnet.Snapshot, v Viewer) *own {
	o, id := new(own), v.ID
	var kept policy.Kept
	if d.policy {
		kept = to.Policy().Compiled.Kept(from.Policy().Compiled, policy.NodeID(id))
	}
	o.self = e.selfChange(d, kept, from, to, id)
	was, is := from.Node(id), to.Node(id)
	if u := owner(is); owner(was) != u || slices.Contains(d.users, u) {
		o.profile = appendProfile(nil, to, u)
	}
	o.health = healthChange(v, was, is)
	if d.base {
		o.domain = to.DNS().BaseDomain
	}
	if from.DNS() != to.DNS() || was.Pending != is.Pending {
		o.dns = changedPiece(e.dns(from, was), e.dns(to, is))
	}
	if from.DERPMap() != to.DERPMap() {
		o.derp = changedPiece(e.derp(from), e.derp(to))
	}
	if d.policy {
		a, b, n := from.Policy().Compiled, to.Policy().Compiled, policy.NodeID(id)
		if !kept.Filter {
			o.filters = p.ownFilters(e, a, b, n)
		}
		if !kept.SSH {
			o.ssh = e.ssh(b.SSH(n))
			o.newSSH = !slices.EqualFunc(e.ssh(a.SSH(n)), o.ssh, func(a, b *piece) bool { return changedPiece(a, b) == nil })
		}
	}
	return o
}

// ownFilters returns how the filter of a viewer of that kind changes. Where everybody may reach everything
// the viewers have it in common.
func (p *peersDelta) ownFilters(e *Encoder, a, b *policy.Compiled, id policy.NodeID) []filterChange {
	p.filtering.Do(func() {
		if p.uniform = a.Uniform(id) && b.Uniform(id); p.uniform {
			p.filters = e.filterChanges(a.Filter(id), b.Filter(id))
		}
	})
	if p.uniform {
		return p.filters
	}
	return e.filterChanges(a.Filter(id), b.Filter(id))
}

// changedPiece returns new if it differs from old.
func changedPiece(old, new *piece) *piece {
	if old == new || bytes.Equal(old.plain, new.plain) {
		return nil
	}
	return new
}

func (o *own) empty() bool {
	return o.self == nil && o.profile == nil && o.health == nil && o.domain == "" && o.dns == nil && o.derp == nil && !o.newSSH && len(o.filters) == 0
}

// private reports whether it has something that other viewers do not get.
func (o *own) private() bool { return o.self != nil || o.profile != nil || o.health != nil }

// key names the content of what is not private. The domain goes without:
// a message with it has everybody's own node too.
func (o *own) key(plain bool) string {
	b := []byte{flag(plain)}
	for _, p := range []*piece{o.dns, o.derp} {
		b = binary.AppendUvarint(b, p.number())
	}
	b = binary.AppendUvarint(append(b, flag(o.newSSH)), uint64(len(o.ssh)))
	for _, p := range o.ssh {
		b = binary.AppendUvarint(b, p.number())
	}
	for _, f := range o.filters {
		b = binary.AppendUvarint(b, uint64(len(f.key)))
		b = append(b, f.key...)
		if f.delete {
			b = append(b, 'd')
			continue
		}
		b = binary.AppendUvarint(b, uint64(len(f.rules)))
		for _, r := range f.rules {
			b = binary.AppendUvarint(b, r.sources.number())
			b = binary.AppendUvarint(b, uint64(len(r.rest)))
			b = append(b, r.rest...)
		}
	}
	return string(b)
}

func flag(set bool) byte {
	if set {
		return 1
	}
	return 0
}

// number is the piece's ID; zero if there is none.
func (p *piece) number() uint64 {
	if p == nil {
		return 0
	}
	return p.id
}

// write writes the fields that changed.
func (o *own) write(b *builder, v Viewer) {
	if o.self != nil {
		b.field("Node")
		b.text = append(b.text, o.self...)
	}
	if o.health != nil {
		b.field(healthField(v))
		b.text = append(b.text, o.health...)
	}
	if o.domain != "" {
		b.field("Domain")
		b.text = appendString(b.text, o.domain)
	}
	if o.dns != nil {
		b.field("DNSConfig")
		b.add(o.dns)
	}
	if o.derp != nil {
		b.field("DERPMap")
		b.add(o.derp)
	}
	if len(o.filters) > 0 {
		b.filters(o.filters)
	}
	if o.newSSH {
		b.ssh(o.ssh)
	}
}
