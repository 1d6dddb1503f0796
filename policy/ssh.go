package policy

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"tailscale.com/tailcfg"
)

// recorderPort is where session recorders listen (tsrecorder's default).
const recorderPort = 80

// sshExpansion holds the wire form of an ssh rule, for all its sources or for a user's devices.
type sshExpansion struct {
	rules atomic.Pointer[[]*tailcfg.SSHRule]
}

func (x *sshExpansion) get(build func() []*tailcfg.SSHRule) []*tailcfg.SSHRule {
	if p := x.rules.Load(); p != nil {
		return *p
	}
	out := build()
	x.rules.Store(&out) // a race stores equal values
	return out
}

// sshOrder calls fn for the ssh rules in the order of evaluation: the first
// that matches decides, and check comes before accept.
func (d *Doc) sshOrder(fn func(i int, r *sshRule) bool) {
	for _, check := range []bool{true, false} {
		for i := range d.ssh {
			if d.ssh[i].Check == check && !fn(i, &d.ssh[i]) {
				return
			}
		}
	}
}

// ownDevices reports whether a rule lets a user of its sources into own devices.
// Rules with localpart do so whatever their destination, as recorded.
func (r *sshRule) ownDevices(login string, d *Doc) bool {
	return r.Self || r.DstUser == login && login != "" || len(r.Localparts) > 0 && (r.DstUser != "" || len(d.sets[r.dst].terms) > 0)
}

// SSH returns the SSH policy of a node; nil if nobody may connect. Rules of a
// check have Tailnet.SSHCheckURL as HoldAndDelegate. Read only.
func (c *Compiled) SSH(id NodeID) *tailcfg.SSHPolicy {
	n := c.node(id)
	if n == nil {
		return nil
	}
	var out []*tailcfg.SSHRule
	c.sshRules(n, func(i int, r *sshRule, self bool) {
		if self {
			h := c.holding(n.ident.user)
			out = append(out, h.ssh[r.slot].get(func() []*tailcfg.SSHRule { return c.wireSSH(r, c.sshSources(r, h.nodes)) })...)
		} else {
			out = append(out, c.expand(i)...)
		}
	})
	if len(out) == 0 {
		return nil
	}
	return &tailcfg.SSHPolicy{Rules: out}
}

// sshRules calls fn for the rules of a node's SSH policy, in order: those about it for all their
// sources (self is false), and those about own devices.
func (c *Compiled) sshRules(n *node, fn func(i int, r *sshRule, self bool)) {
	c.doc.sshOrder(func(i int, r *sshRule) bool {
		switch u := n.ident.user; {
		case hasAny(n.ident.terms, c.doc.sets[r.dst].terms):
			fn(i, r, false)
		case u != nil && r.ownDevices(u.Login, c.doc) && hasAny(n.ident.terms, c.doc.sets[r.src].terms):
			fn(i, r, true)
		}
		return true
	})
}

// expand returns the wire rules of ssh rule i for all its sources.
func (c *Compiled) expand(i int) []*tailcfg.SSHRule {
	return c.ssh[i].get(func() []*tailcfg.SSHRule {
		r := &c.doc.ssh[i]
		var all []*node
		for _, t := range c.doc.sets[r.src].terms {
			all = append(all, c.members[t]...)
		}
		slices.SortFunc(all, byNodeID)
		return c.wireSSH(r, c.sshSources(r, slices.Compact(all)))
	})
}

// sshSources keeps the nodes that satisfy the rule's posture check.
func (c *Compiled) sshSources(r *sshRule, nodes []*node) []*node {
	var out []*node
	for _, n := range nodes {
		if slices.Contains(n.sat, c.doc.sets[r.src].check) {
			out = append(out, n)
		}
	}
	return out
}

// wireSSH makes the wire rules of r for these sources. With localpart there is
// one pair per user: the other logins, and the user's own.
func (c *Compiled) wireSSH(r *sshRule, nodes []*node) []*tailcfg.SSHRule {
	var out []*tailcfg.SSHRule
	add := func(nodes []*node, logins map[string]string) {
		if len(nodes) > 0 && slices.ContainsFunc(slices.Collect(maps.Values(logins)), func(s string) bool { return s != "" }) {
			out = append(out, &tailcfg.SSHRule{
				Principals: principals(nodes), SSHUsers: maps.Clone(logins), Action: c.sshAction(r), AcceptEnv: slices.Clone(r.AcceptEnv),
			})
		}
	}
	if len(r.Localparts) == 0 {
		add(nodes, r.Logins)
		return out
	}
	nodes = slices.Clone(nodes)
	slices.SortStableFunc(nodes, func(a, b *node) int { return strings.Compare(a.login(), b.login()) })
	for len(nodes) > 0 {
		login, n := nodes[0].login(), 1
		for n < len(nodes) && nodes[n].login() == login {
			n++
		}
		add(nodes[:n], r.Logins)
		if local, ok := r.local(login); ok {
			add(nodes[:n], map[string]string{local: local})
		}
		nodes = nodes[n:]
	}
	return out
}

// local returns the login that localpart:*@domain gives a user.
func (r *sshRule) local(user string) (string, bool) {
	at := strings.LastIndexByte(user, '@')
	if at <= 0 || !slices.Contains(r.Localparts, user[at+1:]) {
		return "", false
	}
	return user[:at], true
}

// login is that of the node's user, "" for tagged nodes.
func (n *node) login() string {
	if n.ident.user == nil {
		return ""
	}
	return n.ident.user.Login
}

func principals(nodes []*node) []*tailcfg.SSHPrincipal {
	var out []*tailcfg.SSHPrincipal
	for _, n := range nodes {
		for _, a := range n.addrs() {
			out = append(out, &tailcfg.SSHPrincipal{NodeIP: a.String()})
		}
	}
	return out
}

func (c *Compiled) sshAction(r *sshRule) *tailcfg.SSHAction {
	a := &tailcfg.SSHAction{}
	if r.Check {
		a.HoldAndDelegate = c.settings.SSHCheckURL
		return a // the answer of the check has the rest
	}
	a.Accept, a.AllowAgentForwarding, a.AllowLocalPortForwarding, a.AllowRemotePortForwarding = true, true, true, true
	c.record(a, r)
	return a
}

// record sets the session recorders of an accepting action.
func (c *Compiled) record(a *tailcfg.SSHAction, r *sshRule) {
	for _, t := range c.doc.sets[r.recorder].terms {
		for _, n := range c.members[t] {
			for _, addr := range n.addrs() {
				a.Recorders = append(a.Recorders, netip.AddrPortFrom(addr, recorderPort))
			}
		}
	}
	if r.Enforce {
		const msg = "the session is recorded by policy, and no recorder can be reached"
		a.OnRecordingFailure = &tailcfg.SSHRecorderFailureAction{RejectSessionWithMessage: msg, TerminateSessionWithMessage: msg}
	}
	if r.Enforce && len(a.Recorders) == 0 {
		// Without an address the client would not record at all.
		a.Accept, a.Reject, a.Message = false, true, "the policy wants this session recorded, and there is no recorder"
	}
}

// SSHVerdict is what the policy says about one SSH connection.
type SSHVerdict struct {
	Allowed   bool
	Check     bool          // the user is to be asked first
	Period    time.Duration // of Check: how long an answer holds; 0: ask always
	LocalUser string
	Line      int // of the rule
	// Action is what a passed check, or the rule itself, amounts to.
	Action *tailcfg.SSHAction
}

// SSHConnection evaluates the ssh rules for a connection from a node to
// another, as the requested login; the node dst does the same with SSH(dst).
func (c *Compiled) SSHConnection(src, dst NodeID, login string) SSHVerdict {
	s, d := c.node(src), c.node(dst)
	if s == nil || d == nil {
		return SSHVerdict{}
	}
	return c.sshVerdict(s, d, login)
}

func (c *Compiled) sshVerdict(s, t *node, login string) SSHVerdict {
	var out SSHVerdict
	d := c.doc
	d.sshOrder(func(i int, r *sshRule) bool {
		src := &d.sets[r.src]
		if !hasAny(s.ident.terms, src.terms) || !slices.Contains(s.sat, src.check) {
			return true
		}
		same := s.ident.user != nil && s.ident.user == t.ident.user
		if !hasAny(t.ident.terms, d.sets[r.dst].terms) && !(same && r.ownDevices(t.login(), d)) {
			return true
		}
		local := r.login(s.login(), login)
		if local == "" {
			return true
		}
		out = SSHVerdict{Allowed: true, Check: r.Check, LocalUser: local, Line: r.Line}
		if r.Check {
			out.Period = r.Period
		}
		out.Action = &tailcfg.SSHAction{Accept: true, AllowAgentForwarding: true, AllowLocalPortForwarding: true, AllowRemotePortForwarding: true}
		c.record(out.Action, r)
		return false
	})
	return out
}

// login maps a requested login to a local user, "" if it may not.
func (r *sshRule) login(user, requested string) string {
	to, ok := r.Logins[requested]
	if !ok {
		to = r.Logins["*"]
	}
	if to == "=" {
		to = requested
	}
	if to != "" {
		return to
	}
	if local, ok := r.local(user); ok && local == requested {
		return local
	}
	return ""
}
