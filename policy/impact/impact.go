// Package impact owns the comparison of two compiled policies for the people
// who are to decide between them: which nodes gain or lose access to what. It
// judges by what clients are sent, not by the text of rules: rules that are
// merely written in another way make no change. It refuses to know how a
// policy is written, stored or shown.
package impact

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"heddle/policy"
)

// Report is what is different.
type Report struct {
	// Changes are in order of the number of pairs of nodes that they are about.
	Changes []Change
	Omitted int // changes beyond maxChanges
	// Partial: the comparison was given up before its end (see maxSteps).
	Partial bool
	Caps    []policy.NodeID // whose own capabilities differ, ascending
}

// Change is one difference: from each of the sources to each other node among
// the destinations.
type Change struct {
	Sources, Destinations []policy.NodeID // ascending
	Relation              Relation
	// Gained and Lost are texts like "tcp:22", "80-90" (TCP and UDP), "ssh as
	// root" or "app example.com/cap/x", with " at PREFIX" if it is not about
	// the destination itself but about what it routes to.
	Gained, Lost []string
}

// Relation narrows the pairs of a Change.
type Relation string

// The relations.
const (
	AnyPair    Relation = ""
	SameUser   Relation = "same user"   // devices of one user
	OtherUsers Relation = "other users" // all but those
)

// Bounds: more changes than this nobody reads, and the steps keep the
// comparison of the worst policies within some seconds.
const (
	maxChanges = 200
	maxSteps   = 20_000_000 // grants and sources looked at
	maxResults = 20_000     // distinct comparisons of what is allowed
	maxParts   = 20_000     // sets kept in memory: 50 MB at 20,000 nodes
)

// State is a policy compiled with the nodes of a tailnet.
type State struct {
	*policy.Compiled
	Nodes []policy.Node // in ascending order of ID
}

// Compare tells what changes between nodes when after takes the place of
// before. Both have nodes of the same IDs, users, tags and addresses; approved
// routes may differ.
func Compare(before, after State) Report {
	c := newComparison(after.Nodes)
	c.pass(func(n *policy.Node) string {
		return fmt.Sprint(before.Class(n.ID), " ", after.Class(n.ID))
	}, c.filter, before, after)
	c.pass(func(n *policy.Node) string {
		return fmt.Sprint(n.User, " ", n.Tags) // classes are about acls and grants only
	}, c.ssh, before, after)
	r := c.report()
	for i := range after.Nodes {
		id := after.Nodes[i].ID
		if !maps.EqualFunc(before.Caps(id), after.Caps(id), slices.Equal) {
			r.Caps = append(r.Caps, id)
		}
	}
	return r
}

// grant is what some nodes may do at a destination.
type grant struct {
	sources int // number in comparison.covers
	content int // number in comparison.contents
}

// comparison is one Compare under way. Sets of nodes, and what grants say, are
// interned: equal ones have one number.
type comparison struct {
	nodes      []policy.Node
	finder     *finder
	users      map[policy.UserID]set // untagged nodes
	covers     interned[set]
	contents   interned[content]
	results    map[string]*result // nil: no difference
	partitions map[string]*partition
	parts      int // in partitions
	rows       map[rowKey]*row
	picked     []bool // scratch of pick
	steps      int
	partial    bool
}

// rowKey is of a change whose sources, or for SameUser whose number among the
// changes of one user, are given.
type rowKey struct {
	sources  int
	relation Relation
	result   *result
}

type row struct{ sources, dests set }

func newComparison(nodes []policy.Node) *comparison {
	c := &comparison{
		nodes: nodes, finder: newFinder(nodes), users: map[policy.UserID]set{},
		results: map[string]*result{}, partitions: map[string]*partition{}, rows: map[rowKey]*row{},
	}
	for i := range nodes {
		if u := nodes[i].User; u != 0 {
			if c.users[u] == nil {
				c.users[u] = newSet(len(nodes))
			}
			c.users[u].add(i)
		}
	}
	return c
}

// pass compares one sort of grants at one node of every kind.
func (c *comparison) pass(kindOf func(*policy.Node) string, grants func(*policy.Compiled, *policy.Node) []grant, before, after State) {
	kinds := map[string][]int{}
	var order []string
	for i := range c.nodes {
		k := kindOf(&c.nodes[i])
		if kinds[k] == nil {
			order = append(order, k)
		}
		kinds[k] = append(kinds[k], i)
	}
	mine := map[ownKey][]int{}
	for _, k := range order {
		members := kinds[k]
		d := members[0]
		was, is := grants(before.Compiled, &before.Nodes[d]), grants(after.Compiled, &after.Nodes[d])
		if slices.Equal(was, is) {
			continue
		}
		if c.at(members, was, is, mine); c.partial {
			return
		}
	}
}

// ownKey counts the changes of one user's devices that have one result.
type ownKey struct {
	user   policy.UserID
	result *result
}

// at compares the grants at the members of one kind. Grants to devices of the
// destination's own user are looked at apart: every user has others.
func (c *comparison) at(members []int, was, is []grant, mine map[ownKey][]int) {
	d := &c.nodes[members[0]]
	same := c.users[d.User]
	var general, own []int
	seen := map[int]bool{}
	for _, g := range slices.Concat(was, is) {
		if seen[g.sources] {
			continue
		}
		seen[g.sources] = true
		if cover := c.covers.at[g.sources]; same != nil && cover.within(same) {
			own = append(own, g.sources)
		} else {
			general = append(general, g.sources)
		}
	}
	parts := c.partition(general)
	for _, p := range parts.list {
		if c.steps += 1 + len(was) + len(is); c.steps > maxSteps || len(c.results) > maxResults {
			c.partial = true
			return
		}
		res := c.result(d, c.pick(was, p.covers), c.pick(is, p.covers))
		sources, relation := p.nodes, AnyPair
		if len(own) > 0 && sources.meets(same) {
			sources, relation = sources.without(same), OtherUsers
		}
		if res != nil && sources.any() && !(len(members) == 1 && sources.only(members[0])) {
			c.row(rowKey{c.covers.id(p.nodes.key(), p.nodes), relation, res}).add(p.nodes, members)
		}
	}
	if len(own) == 0 {
		return
	}
	byResult := map[*result]set{}
	same.each(func(s int) {
		covers := slices.Clone(parts.list[parts.of[s]].covers)
		for _, o := range own {
			if c.covers.at[o].has(s) {
				covers = append(covers, o)
			}
		}
		c.steps += 1 + len(was) + len(is)
		if res := c.result(d, c.pick(was, covers), c.pick(is, covers)); res != nil {
			if byResult[res] == nil {
				byResult[res] = newSet(len(c.nodes))
			}
			byResult[res].add(s)
		}
	})
	for res, sources := range byResult {
		if len(members) == 1 && sources.only(members[0]) {
			continue
		}
		// One row has one set of sources of each user.
		id, key := c.covers.id(sources.key(), sources), ownKey{d.User, res}
		nth := slices.Index(mine[key], id)
		if nth < 0 {
			nth = len(mine[key])
			mine[key] = append(mine[key], id)
		}
		c.row(rowKey{nth, SameUser, res}).add(sources, members)
	}
}

func (c *comparison) row(k rowKey) *row {
	r := c.rows[k]
	if r == nil {
		r = &row{newSet(len(c.nodes)), newSet(len(c.nodes))}
		c.rows[k] = r
	}
	return r
}

func (r *row) add(sources set, members []int) {
	r.sources.addAll(sources)
	for _, m := range members {
		r.dests.add(m)
	}
}

// pick returns the contents of the grants whose sources are among covers.
func (c *comparison) pick(grants []grant, covers []int) []int {
	c.picked = append(c.picked, make([]bool, max(0, len(c.covers.at)-len(c.picked)))...)
	for _, one := range covers {
		c.picked[one] = true
	}
	var out []int
	for _, g := range grants {
		if c.picked[g.sources] {
			out = append(out, g.content)
		}
	}
	for _, one := range covers {
		c.picked[one] = false
	}
	return out
}

// partition sorts all nodes by which of some sets they are in.
type partition struct {
	list []part
	of   []int32 // node → index of list
}

type part struct {
	nodes  set
	covers []int
}

func (c *comparison) partition(covers []int) *partition {
	slices.Sort(covers)
	key := fmt.Sprint(covers)
	if p := c.partitions[key]; p != nil {
		return p
	}
	c.steps += len(c.nodes)
	in := make([][]int, len(c.nodes))
	for _, cover := range covers {
		c.covers.at[cover].each(func(i int) { in[i] = append(in[i], cover) })
	}
	p := &partition{of: make([]int32, len(c.nodes))}
	index := map[string]int32{}
	var sig []byte
	for i, list := range in {
		sig = sig[:0]
		for _, cover := range list {
			sig = binary.AppendUvarint(sig, uint64(cover))
		}
		at, ok := index[string(sig)]
		if !ok {
			at = int32(len(p.list))
			index[string(sig)] = at
			p.list = append(p.list, part{newSet(len(c.nodes)), list})
		}
		p.list[at].nodes.add(i)
		p.of[i] = at
	}
	if c.parts += len(p.list); c.parts > maxParts {
		clear(c.partitions)
		c.parts = len(p.list)
	}
	c.partitions[key] = p
	return p
}

// report joins rows that differ in their sources only, and orders them.
func (c *comparison) report() Report {
	type joined struct {
		dests    string
		relation Relation
		result   string
	}
	at := map[joined]int{}
	var rows []row
	var out []Change
	keys := slices.SortedFunc(maps.Keys(c.rows), func(a, b rowKey) int {
		return cmp.Or(cmp.Compare(a.sources, b.sources), cmp.Compare(a.relation, b.relation), cmp.Compare(a.result.text, b.result.text))
	})
	for _, k := range keys {
		r := c.rows[k]
		j := joined{r.dests.key(), k.relation, k.result.text}
		if i, ok := at[j]; ok && k.relation != SameUser {
			rows[i].sources.addAll(r.sources)
			continue
		}
		at[j] = len(rows)
		rows = append(rows, *r)
		out = append(out, Change{Relation: k.relation, Gained: k.result.gained, Lost: k.result.lost})
	}
	for i := range out {
		out[i].Sources, out[i].Destinations = c.ids(rows[i].sources), c.ids(rows[i].dests)
	}
	slices.SortStableFunc(out, func(a, b Change) int {
		return cmp.Or(cmp.Compare(len(b.Sources)*len(b.Destinations), len(a.Sources)*len(a.Destinations)),
			slices.Compare(a.Destinations, b.Destinations), slices.Compare(a.Sources, b.Sources),
			strings.Compare(string(a.Relation), string(b.Relation)), slices.Compare(a.Gained, b.Gained), slices.Compare(a.Lost, b.Lost))
	})
	r := Report{Changes: out, Partial: c.partial}
	if len(out) > maxChanges {
		r.Changes, r.Omitted = out[:maxChanges], len(out)-maxChanges
	}
	return r
}

func (c *comparison) ids(s set) []policy.NodeID {
	var out []policy.NodeID
	s.each(func(i int) { out = append(out, c.nodes[i].ID) })
	return out
}
