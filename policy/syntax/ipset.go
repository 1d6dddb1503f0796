package syntax

import (
	"net/netip"
	"strings"

	"github.com/tailscale/hujson"
	"go4.org/netipx"
)

// Every removal may sort what was added so far, so the product of these two
// bounds the work of all ipsets.
const (
	maxSetPrefixes = 20_000 // added or removed, in all ipsets
	maxRemovals    = 1_000
)

// ipset is one entry of ipsets while it is resolved.
type ipset struct {
	key      text
	elements []text
	state    ipsetState
	bad      bool // it or one that it names has a problem: it is empty then
}

type ipsetState int

const (
	ipsetNew ipsetState = iota
	ipsetOpen
	ipsetDone
)

// ipsetReader resolves sets that may name each other, in any order but not in
// a circle.
type ipsetReader struct {
	*parser
	sets               map[string]*ipset
	prefixes, removals int
}

func (p *parser) ipsets(v *hujson.Value) {
	r := &ipsetReader{parser: p, sets: map[string]*ipset{}}
	var order []*ipset
	p.members(v, "ipsets", func(key text, v *hujson.Value) {
		if !strings.HasPrefix(key.s, "ipset:") || len(key.s) == len("ipset:") {
			p.fail(key.off, "ipsets[%q]: names start with 'ipset:'", key.s)
			return
		}
		before := p.noted
		s := &ipset{key: key, elements: p.strs(v, "ipsets["+key.s+"]")}
		s.bad = p.noted > before
		r.sets[key.s] = s
		order = append(order, s)
	})
	for _, s := range order {
		if s.state == ipsetNew {
			r.resolve(s, 0)
		}
	}
}

func (r *ipsetReader) resolve(s *ipset, depth int) {
	s.state = ipsetOpen
	before := r.noted
	var b netipx.IPSetBuilder
	for _, e := range s.elements {
		ps, remove := r.element(s, e, depth)
		for _, p := range ps {
			if remove {
				b.RemovePrefix(p)
			} else {
				b.AddPrefix(p)
			}
		}
	}
	var out []netip.Prefix
	set, err := b.IPSet()
	if err != nil {
		r.fail(s.key.off, "ipsets[%q]: %v", s.key.s, err)
	} else if s.bad = s.bad || r.noted > before; !s.bad { // a part of it may lack what it removes
		out = set.Prefixes()
	}
	r.d.IPSets[s.key.s] = out
	s.state = ipsetDone
}

// element reads one element: what it adds or, after "remove", takes away.
func (r *ipsetReader) element(s *ipset, e text, depth int) (ps []netip.Prefix, remove bool) {
	name := strings.TrimSpace(e.s)
	if rest, ok := strings.CutPrefix(name, "remove "); ok {
		name, remove = strings.TrimSpace(rest), true
		r.removals++
	} else if rest, ok := strings.CutPrefix(name, "add "); ok {
		name = strings.TrimSpace(rest)
	}
	if other := r.sets[name]; other != nil {
		if other.state == ipsetOpen || depth >= maxNesting {
			r.fail(e.off, "ipsets[%q]: %q goes in a circle, or more than %d deep", s.key.s, name, maxNesting)
			return nil, false
		}
		if other.state == ipsetNew {
			r.resolve(other, depth+1)
		}
		s.bad = s.bad || other.bad
	}
	t, err := r.d.Lookup(name)
	if err != nil || t.Kind&(Prefix|Host|IPSet) == 0 {
		r.fail(e.off, "ipsets[%q]: %q is not an address, a CIDR, a range, a host or another ipset", s.key.s, name)
		return nil, false
	}
	if r.prefixes += len(t.Prefixes); r.prefixes > maxSetPrefixes || r.removals > maxRemovals {
		r.fail(e.off, "ipsets: more than %d prefixes or %d removals in all", maxSetPrefixes, maxRemovals)
		return nil, false
	}
	return t.Prefixes, remove
}
