package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"

	"heddle/policy/prefixes"
)

// edges are the relations between terms, sets and rules of a Doc.
type edges struct {
	any, danger, internet int32 // terms, -1 if the policy has none
	member, tagged        int32
	prefixes              *prefixes.Index // of prefix terms
	termSets              [][]int32       // term → sets with it
	parts                 []part
	termParts             [][]int32 // term → parts of it
	outgoing              [][]int32 // set → rules with it as src
	incoming              [][]int32 // set → rules with it as dst
	selfSets              []int32   // sets that selfOf has something for
	selfOf                [][]int32 // set → rules with autogroup:self that have it as base
	backOf                [][]int32 // set → rules with a companion that have it as src
	viaSets               []int32   // sets with via
}

// index derives the edges; it is the last step of making a Doc.
func (d *Doc) index() {
	e := &d.edges
	named := func(name string) int32 {
		if id, ok := d.termIDs[name]; ok {
			return id
		}
		return -1
	}
	e.any, e.danger, e.internet = named("*"), named("autogroup:danger-all"), named("autogroup:internet")
	e.member, e.tagged = named("autogroup:member"), named("autogroup:tagged")
	at := map[netip.Prefix][]int32{}
	for id, t := range d.terms {
		for _, p := range t.Prefixes {
			at[p] = append(at[p], int32(id))
		}
	}
	e.prefixes = prefixes.NewIndex(at)
	e.termSets, e.termParts = make([][]int32, len(d.terms)), make([][]int32, len(d.terms))
	partIDs := map[part]int32{}
	for id, s := range d.sets {
		sum := sha256.Sum256([]byte(s.key))
		d.sets[id].hash = hex.EncodeToString(sum[:8])
		for _, t := range s.terms {
			e.termSets[t] = append(e.termSets[t], int32(id))
			p := part{t, s.check}
			if _, ok := partIDs[p]; !ok {
				partIDs[p] = int32(len(e.parts))
				e.termParts[t] = append(e.termParts[t], int32(len(e.parts)))
				e.parts = append(e.parts, p)
			}
			d.sets[id].parts = append(d.sets[id].parts, partIDs[p])
		}
		d.sets[id].wild = s.check == 0 && (slices.Contains(s.terms, e.any) || slices.Contains(s.terms, e.danger))
		if len(s.via) > 0 {
			e.viaSets = append(e.viaSets, int32(id))
		}
	}
	n := len(d.sets)
	e.outgoing, e.incoming, e.selfOf, e.backOf = make([][]int32, n), make([][]int32, n), make([][]int32, n), make([][]int32, n)
	for i := range d.rules {
		r, id := &d.rules[i], int32(i)
		e.outgoing[r.src] = append(e.outgoing[r.src], id)
		e.incoming[r.dst] = append(e.incoming[r.dst], id)
		if r.Self {
			if len(e.selfOf[r.base]) == 0 {
				e.selfSets = append(e.selfSets, r.base)
			}
			e.selfOf[r.base] = append(e.selfOf[r.base], id)
		}
		if r.Companion != nil {
			e.backOf[r.src] = append(e.backOf[r.src], id)
		}
		for _, s := range []int32{r.src, r.dst} {
			for _, t := range d.sets[s].terms {
				d.terms[t].ruled = true
			}
			for _, t := range d.sets[s].via {
				d.terms[t].ruled = true
			}
		}
	}
}

// setsWith returns the sets, in order and once each, that have one of the
// terms and that keep accepts.
func (d *Doc) setsWith(terms []int32, keep func(id int32, s *set) bool) []int32 {
	seen := newBitset(len(d.sets))
	var out []int32
	for _, t := range terms {
		for _, id := range d.termSets[t] {
			if !seen.has(id) {
				seen.add(id)
				if keep(id, &d.sets[id]) {
					out = append(out, id)
				}
			}
		}
	}
	slices.Sort(out)
	return out
}
