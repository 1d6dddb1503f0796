package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"

	"heddle/policy/prefixes"
)

// Class stands for nodes that the policy treats alike: two nodes of a class
// get equal answers about any third node. Class 0 is that of unknown nodes.
// Classes of different Compiled values are not comparable.
type Class int32

// Compiled is a policy joined with the users and nodes of a tailnet. It is
// immutable and safe for concurrent use; what is expensive and may never be
// asked is computed at the first question and kept, without locks. Queries
// about a node that it does not know answer like a node that nothing is
// granted to.
type Compiled struct {
	doc      *Doc
	settings settings
	users    []*user // by ID
	nodes    []*node // by ID
	tagged   map[string]*identity
	classIDs map[classKey]Class
	classes  []*class   // by Class; entry 0 is of unknown nodes
	inClass  []int32    // Class → how many nodes have it
	dead     int        // classes that no node has
	holdings []*holding // of users, in their order
	members  [][]*node  // term → nodes that are in it by identity, by ID
	sources  []*source  // by set
	parts    []*source  // by part
	ssh      []*sshExpansion
	routing  *routing
}

// settings are the parts of a Tailnet that are neither users nor nodes.
type settings struct {
	Domains, Groups []string
	AutoUpdates     *bool
	SSHCheckURL     string
}

// user is a User with what the policy makes of its untagged nodes.
type user struct {
	User
	ident *identity
}

// identity is what a node is by its user or its tags, shared by all nodes of
// the same.
type identity struct {
	terms []int32 // sorted
	ruled []int32 // those that acls and grants name
	user  *user   // nil if tagged or of an unknown user
	// selfChecks are the posture checks of the rules with autogroup:self that
	// the user is a source of; 0 among them: some has none.
	selfChecks []int32
}

// holding is what a user has: untagged nodes, by ID, and what autogroup:self stands for at each
// of them: as a source, by check, and in ssh rules, by slot.
type holding struct {
	nodes []*node
	self  []source
	ssh   []sshExpansion
}

// node is a Node with its place in the policy.
type node struct {
	Node
	ident  *identity
	addr   []int32 // prefix terms that contain one of its addresses; sorted
	behind []int32 // prefix terms that overlap an approved subnet route; sorted
	via    []int32 // via sets that it is a router of; sorted
	sat    []int32 // checks that its attributes satisfy; sorted
	subnet []netip.Prefix
	texts  []string // its addresses
	exit   bool
	v4off  bool
	class  Class
	from   atomic.Pointer[[]from] // what its filter has groups of; nil: nobody asked yet
}

type classKey [sha256.Size]byte

// class has what the answers about its nodes depend on.
type class struct {
	own    []int32 // ruled terms, by identity and address
	behind []int32
	via    []int32
	sat    []int32
	exit   bool
	user   UserID // of untagged nodes, if autogroup:self matters for them
	self   []int32
	reach  atomic.Pointer[reach]
}

// Compile joins a policy with a tailnet. It is total: what it cannot resolve
// grants nothing; of several nodes or users with one ID the first counts.
func Compile(doc *Doc, t Tailnet) *Compiled {
	c := &Compiled{
		doc: doc, tagged: map[string]*identity{}, classIDs: map[classKey]Class{}, classes: []*class{{}}, inClass: []int32{0},
		members: make([][]*node, len(doc.terms)), sources: make([]*source, len(doc.sets)),
		parts:   make([]*source, len(doc.parts)),
		routing: doc.newRouting(nil, nil),
	}
	for i := range c.sources {
		c.sources[i] = new(source)
	}
	for i := range c.parts {
		c.parts[i] = new(source)
	}
	c.unknownClass()
	return c.Recompile(t)
}

// unknownClass sets up class 0, so that it reaches nothing.
func (c *Compiled) unknownClass() {
	c.classes[0].reach.Store(c.doc.reachOf(c.classes[0]))
}

// Recompile returns what Compile would, of the same policy with another state
// of the tailnet, and reuses what did not change. The cost of a change to one
// node is a few comparisons per node of the tailnet. c remains as it is.
func (c *Compiled) Recompile(t Tailnet) *Compiled {
	if c.dead > len(c.nodes)+1000 {
		return Compile(c.doc, t) // the classes of nodes long gone
	}
	next := *c
	next.settings = settings{t.Domains, t.Groups, t.AutoUpdates, t.SSHCheckURL}
	b := &builder{Compiled: &next, old: c}
	b.diffUsers(t.Users)
	b.diffNodes(t.Nodes)
	b.apply()
	return b.Compiled
}

// Amend is Recompile for a caller that knows what changed: nodes that are new
// or different, and IDs of nodes that are gone. Users and settings stay. Its cost
// grows with the change, but for copying pointers to all nodes.
func (c *Compiled) Amend(changed []Node, gone []NodeID) *Compiled {
	if c.dead > len(c.nodes)+1000 {
		c = c.again()
	}
	next := *c
	b := &builder{Compiled: &next, old: c}
	b.amendNodes(byID(changed, func(n *Node) int64 { return int64(n.ID) }), slices.Sorted(slices.Values(gone)))
	b.apply()
	return b.Compiled
}

// again compiles the same afresh, without what earlier states have left.
func (c *Compiled) again() *Compiled {
	t := Tailnet{Domains: c.settings.Domains, Groups: c.settings.Groups, AutoUpdates: c.settings.AutoUpdates, SSHCheckURL: c.settings.SSHCheckURL}
	for _, u := range c.users {
		t.Users = append(t.Users, u.User)
	}
	for _, n := range c.nodes {
		t.Nodes = append(t.Nodes, n.Node)
	}
	return Compile(c.doc, t)
}

// builder makes the next Compiled. What it changes it copies first.
type builder struct {
	*Compiled
	old           *Compiled
	routesChanged bool
	usersChanged  bool
	fresh, gone   []*node
	owns          struct{ classes, tagged, counts bool } // what is copied already
	terms         []int32                                // scratch
}

// byID returns the elements in order of ID, without those that repeat one. The
// result is the input itself if it is so already.
func byID[T any](in []T, id func(*T) int64) []T {
	for i := 1; i < len(in); i++ {
		if id(&in[i-1]) >= id(&in[i]) {
			out := slices.Clone(in)
			slices.SortStableFunc(out, func(a, b T) int { return cmp.Compare(id(&a), id(&b)) })
			return slices.CompactFunc(out, func(a, b T) bool { return id(&a) == id(&b) })
		}
	}
	return in
}

func (b *builder) diffUsers(in []User) {
	old, held := b.users, b.holdings
	users := byID(in, func(u *User) int64 { return int64(u.ID) })
	b.users, b.holdings = make([]*user, 0, len(users)), make([]*holding, 0, len(users))
	before, kept := len(old), len(users)
	for i := range users {
		u := &users[i]
		for len(old) > 0 && old[0].ID < u.ID {
			old, held = old[1:], held[1:]
		}
		if len(old) > 0 && old[0].ID == u.ID && old[0].Login == u.Login && old[0].Role == u.Role && sameStrings(old[0].Groups, u.Groups) {
			b.users, b.holdings = append(b.users, old[0]), append(b.holdings, held[0])
			continue
		}
		b.users, b.holdings = append(b.users, b.doc.newUser(*u)), append(b.holdings, new(holding))
		kept--
	}
	b.usersChanged = kept != before || len(b.users) != before
}

// sameStrings compares two lists, in constant time if they are one.
func sameStrings(a, b []string) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

func samePrefixes(a, b []netip.Prefix) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

func sameAttrs(a, b map[string]any) bool {
	return len(a) == len(b) && (len(a) == 0 || reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer() || reflect.DeepEqual(a, b))
}

func (c *Compiled) userAt(id UserID) (int, bool) {
	return slices.BinarySearchFunc(c.users, id, func(u *user, id UserID) int { return cmp.Compare(u.ID, id) })
}

func (c *Compiled) user(id UserID) *user {
	if i, ok := c.userAt(id); ok {
		return c.users[i]
	}
	return nil
}

// holding returns what a user that there is has.
func (c *Compiled) holding(u *user) *holding {
	i, _ := c.userAt(u.ID)
	return c.holdings[i]
}

func (c *Compiled) node(id NodeID) *node {
	i, ok := slices.BinarySearchFunc(c.nodes, id, func(n *node, id NodeID) int { return cmp.Compare(n.ID, id) })
	if !ok {
		return nil
	}
	return c.nodes[i]
}

func (b *builder) diffNodes(in []Node) {
	old := b.nodes
	nodes := byID(in, func(n *Node) int64 { return int64(n.ID) })
	b.nodes = make([]*node, 0, len(nodes))
	for i := range nodes {
		n := &nodes[i]
		for len(old) > 0 && old[0].ID < n.ID {
			b.remove(old[0])
			old = old[1:]
		}
		if len(old) > 0 && old[0].ID == n.ID {
			before := old[0]
			old = old[1:]
			if b.unchanged(before, n) {
				b.nodes = append(b.nodes, before)
				continue
			}
			b.remove(before)
		}
		b.nodes = append(b.nodes, b.add(n))
	}
	for _, n := range old {
		b.remove(n)
	}
}

func (b *builder) amendNodes(changed []Node, gone []NodeID) {
	old := b.nodes
	b.nodes = make([]*node, 0, len(old)+len(changed))
	add := func(before NodeID, all bool) {
		for ; len(changed) > 0 && (all || changed[0].ID < before); changed = changed[1:] {
			b.nodes = append(b.nodes, b.add(&changed[0]))
		}
	}
	for _, n := range old {
		add(n.ID, false)
		for len(gone) > 0 && gone[0] < n.ID {
			gone = gone[1:]
		}
		switch {
		case len(changed) > 0 && changed[0].ID == n.ID:
			if b.unchanged(n, &changed[0]) {
				changed = changed[1:]
				b.nodes = append(b.nodes, n)
			} else {
				b.remove(n)
				add(n.ID+1, false)
			}
		case len(gone) > 0 && gone[0] == n.ID:
			b.remove(n)
		default:
			b.nodes = append(b.nodes, n)
		}
	}
	add(0, true)
}

func (b *builder) unchanged(old *node, n *Node) bool {
	if old.User != n.User || old.IPv4 != n.IPv4 || old.IPv6 != n.IPv6 || !sameStrings(old.Tags, n.Tags) ||
		!samePrefixes(old.Approved, n.Approved) || !sameAttrs(old.Attrs, n.Attrs) {
		return false
	}
	return len(n.Tags) > 0 || !b.usersChanged || old.ident.user == b.user(n.User)
}

func (b *builder) remove(n *node) {
	b.routesChanged = b.routesChanged || len(n.subnet) > 0
	b.ownCounts()
	if b.inClass[n.class]--; b.inClass[n.class] == 0 {
		b.dead++
	}
	b.gone = append(b.gone, n)
}

func (b *builder) add(in *Node) *node {
	n := &node{Node: *in, ident: b.identity(in)}
	d := b.doc
	for _, p := range in.Approved {
		switch {
		case !p.IsValid():
		case p.Bits() == 0:
			n.exit = true
		default:
			n.subnet = append(n.subnet, p.Masked())
		}
	}
	slices.SortFunc(n.subnet, prefixes.Compare)
	n.subnet = slices.Compact(n.subnet)
	b.terms = b.terms[:0]
	for _, a := range n.addrs() {
		n.texts = append(n.texts, a.String())
		b.terms = d.prefixes.Containing(b.terms, prefixes.Host(a))
	}
	n.addr = sorted(b.terms)
	b.terms = b.terms[:0]
	for _, p := range n.subnet {
		b.terms = d.prefixes.Overlapping(b.terms, p)
	}
	n.behind = sorted(b.terms)
	n.via = d.routedBy(n)
	n.sat = d.satisfied(in.Attrs)
	n.v4off = d.text.DisableIPv4 || slices.ContainsFunc(d.attrs, func(r attrRule) bool {
		_, off := r.Caps[disableIPv4]
		return off && n.within(d, r.target)
	})
	n.class = b.classOf(n)
	b.routesChanged = b.routesChanged || len(n.subnet) > 0
	b.fresh = append(b.fresh, n)
	return n
}

// copy returns a node that the caller may change.
func (n *node) copy() *node {
	return &node{
		Node: n.Node, ident: n.ident, addr: n.addr, behind: n.behind, via: n.via, sat: n.sat,
		subnet: n.subnet, texts: n.texts, exit: n.exit, v4off: n.v4off, class: n.class,
	}
}

// within reports whether the node is in a set by what it is or by its address.
func (n *node) within(d *Doc, set int32) bool {
	terms := d.sets[set].terms
	return hasAny(n.ident.terms, terms) || hasAny(n.addr, terms)
}

// routedBy returns the via sets that a node serves: it has one of their tags
// and an approved route into one of their destinations.
func (d *Doc) routedBy(n *node) []int32 {
	if len(n.Tags) == 0 || len(n.subnet) == 0 && !n.exit {
		return nil
	}
	var out []int32
	for _, id := range d.viaSets {
		s := &d.sets[id]
		if hasAny(s.via, n.ident.terms) && (hasAny(s.terms, n.behind) || n.exit && slices.Contains(s.terms, d.internet) || slices.Contains(s.terms, d.any)) {
			out = append(out, id)
		}
	}
	return out
}

// identity returns the shared identity of nodes like n.
func (b *builder) identity(n *Node) *identity {
	if len(n.Tags) == 0 {
		if u := b.user(n.User); u != nil {
			return u.ident
		}
		return b.doc.newIdentity(nil)
	}
	tags := slices.Compact(slices.Sorted(slices.Values(n.Tags)))
	key := strings.Join(tags, " ")
	i := b.tagged[key]
	if i == nil {
		if !b.owns.tagged {
			b.tagged, b.owns.tagged = maps.Clone(b.tagged), true
		}
		i = b.doc.newIdentity(tagNames(tags))
		b.tagged[key] = i
	}
	return i
}

func (d *Doc) newUser(in User) *user {
	u := &user{User: in, ident: d.newIdentity(d.userNames(&in))}
	u.ident.user = u
	u.ident.selfChecks = d.selfChecks(u.ident)
	return u
}

// newIdentity is that of a node which the selectors of these names match.
func (d *Doc) newIdentity(names []string) *identity {
	i := new(identity)
	for _, name := range append(names, "*", "autogroup:danger-all") {
		if id, ok := d.termIDs[name]; ok {
			i.terms = append(i.terms, id)
		}
	}
	i.terms = sorted(i.terms)
	i.ruled = d.ruledOf(i.terms)
	return i
}

// selfChecks returns the checks of the rules with autogroup:self for a user.
func (d *Doc) selfChecks(i *identity) []int32 {
	var out []int32
	for _, s := range d.selfSets {
		if hasAny(i.terms, d.sets[s].terms) {
			for _, r := range d.selfOf[s] {
				out = append(out, d.sets[d.rules[r].src].check)
			}
		}
	}
	return sorted(out)
}

// classOf interns the class of a node.
func (b *builder) classOf(n *node) Class {
	c := &class{behind: b.doc.ruledOf(n.behind), via: n.via, sat: n.sat, exit: n.exit, self: n.ident.selfChecks}
	c.own = n.ident.ruled
	if addr := b.doc.ruledOf(n.addr); len(addr) > 0 {
		c.own = sorted(slices.Concat(c.own, addr))
	}
	if n.ident.user != nil && len(c.self) > 0 {
		c.user = n.User
	}
	key := c.key(n)
	id, ok := b.classIDs[key]
	if !ok {
		if !b.owns.classes {
			b.classIDs, b.classes, b.owns.classes = maps.Clone(b.classIDs), slices.Clone(b.classes), true
		}
		id = Class(len(b.classes))
		b.classIDs[key] = id
		b.classes = append(b.classes, c)
	}
	b.ownCounts()
	for len(b.inClass) < len(b.classes) {
		b.inClass = append(b.inClass, 0)
	}
	if b.inClass[id]++; b.inClass[id] == 1 && ok {
		b.dead--
	}
	return id
}

func (b *builder) ownCounts() {
	if !b.owns.counts {
		b.inClass, b.owns.counts = slices.Clone(b.inClass), true
	}
}

// ruledOf keeps the terms that acls and grants name.
func (d *Doc) ruledOf(terms []int32) []int32 {
	var out []int32
	for _, t := range terms {
		if d.terms[t].ruled {
			out = append(out, t)
		}
	}
	return out
}

func (c *class) key(n *node) classKey {
	buf := make([]byte, 0, 256)
	for _, list := range [][]int32{c.own, c.behind, c.via, c.sat} {
		buf = binary.LittleEndian.AppendUint32(buf, uint32(len(list)))
		for _, v := range list {
			buf = binary.LittleEndian.AppendUint32(buf, uint32(v))
		}
	}
	buf = binary.LittleEndian.AppendUint64(buf, uint64(c.user))
	flags := byte(0)
	if n.exit {
		flags |= 1
	}
	if n.v4off {
		flags |= 2
	}
	buf = append(buf, flags)
	for _, p := range n.subnet { // whose standby it is matters for what it is shown
		buf, _ = p.AppendBinary(buf)
		buf = append(buf, ' ')
	}
	return sha256.Sum256(buf)
}
