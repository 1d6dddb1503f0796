// Package tailnettest owns what tests of the model's neighbours share: a Store
// that keeps a tailnet in memory. It is for tests only and knows no rules.
package tailnettest

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"heddle/control/tailnet"
)

// Store is a tailnet.Store in memory, for one tailnet. The zero value is empty and ready.
type Store struct {
	mu    sync.Mutex
	img   tailnet.Image
	rows  rows
	audit []tailnet.AuditEntry
	past  []*tailnet.Policy
	log   []tailnet.Delta // the last of the commits
	news  map[int]func()
	next  int // number of the next watcher
	fail  error
	count int
	tries int
}

type rows struct {
	nodes    map[tailnet.NodeID]*tailnet.Node
	users    map[tailnet.UserID]*tailnet.User
	authKeys map[tailnet.AuthKeyID]*tailnet.AuthKey
	apiKeys  map[tailnet.APIKeyID]*tailnet.APIKey
	tombs    map[string]*tailnet.Tombstone
}

var _ tailnet.Store = (*Store)(nil)

// Load implements tailnet.Store. Nodes are copied, since State writes to those that it loads.
func (s *Store) Load(context.Context, string) (tailnet.Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	img := s.img
	img.Nodes = nil
	for _, n := range values(s.rows.nodes) {
		img.Nodes = append(img.Nodes, stored(n))
	}
	img.Users = values(s.rows.users)
	img.AuthKeys = values(s.rows.authKeys)
	img.APIKeys = values(s.rows.apiKeys)
	img.Tombstones = values(s.rows.tombs)
	return img, nil
}

// Commit implements tailnet.Store.
func (s *Store) Commit(_ context.Context, d *tailnet.Delta) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tries++
	if s.fail != nil {
		return s.fail
	}
	if d.Base != s.img.Seq {
		return tailnet.ErrConflict
	}
	s.count++
	s.img.Seq++
	s.img.LastID = d.LastID
	apply(&s.rows.nodes, d.Nodes)
	apply(&s.rows.users, d.Users)
	apply(&s.rows.authKeys, d.AuthKeys)
	apply(&s.rows.apiKeys, d.APIKeys)
	apply(&s.rows.tombs, d.Tombstones)
	if d.Settings != nil {
		s.img.Settings = d.Settings
	}
	if d.Policy != nil { // without what a store does not keep
		p := d.Policy
		s.img.Policy = &tailnet.Policy{Source: p.Source, ETag: p.ETag, Updated: p.Updated, By: p.By, Revision: s.img.Seq}
		s.past = append(s.past, s.img.Policy)
	}
	s.audit = append(s.audit, d.Audit...)
	s.remember(d)
	for _, news := range s.news {
		news()
	}
	return nil
}

// remembered is how many commits Since knows.
const remembered = 100

func (s *Store) remember(d *tailnet.Delta) {
	if len(s.log) == remembered {
		s.log = slices.Delete(s.log, 0, 1)
	}
	s.log = append(s.log, tailnet.Delta{
		Base: d.Base, Nodes: clone(d.Nodes), Users: clone(d.Users), AuthKeys: clone(d.AuthKeys), APIKeys: clone(d.APIKeys),
		Tombstones: clone(d.Tombstones), Settings: d.Settings, Policy: d.Policy,
	})
}

// Since implements tailnet.Store. Nodes are copied, as Load does.
func (s *Store) Since(_ context.Context, _ string, after tailnet.Seq) (*tailnet.Delta, tailnet.Seq, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return nil, 0, s.fail
	}
	d := &tailnet.Delta{Base: after, LastID: s.img.LastID}
	back := int(s.img.Seq - after)
	if back < 0 || back > len(s.log) {
		return nil, 0, tailnet.ErrForgotten
	}
	for _, c := range s.log[len(s.log)-back:] {
		merge(&d.Nodes, c.Nodes)
		merge(&d.Users, c.Users)
		merge(&d.AuthKeys, c.AuthKeys)
		merge(&d.APIKeys, c.APIKeys)
		merge(&d.Tombstones, c.Tombstones)
		if c.Settings != nil {
			d.Settings = c.Settings
		}
		if c.Policy != nil {
			d.Policy = s.img.Policy
		}
	}
	for id, n := range d.Nodes.Put {
		d.Nodes.Put[id] = stored(n)
	}
	return d, s.img.Seq, nil
}

// Watch implements tailnet.Store; the process's own commits are news, too.
func (s *Store) Watch(ctx context.Context, _ string, news func()) {
	s.mu.Lock()
	if s.news == nil {
		s.news = map[int]func(){}
	}
	id := s.next
	s.next++
	s.news[id] = news
	s.mu.Unlock()
	news() // for what was missed
	<-ctx.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.news, id)
}

// stored is what is kept of a node.
func stored(n *tailnet.Node) *tailnet.Node {
	c := *n
	c.Status = tailnet.Status{Online: n.Status.Online, LastSeen: n.Status.LastSeen}
	return &c
}

// FailWith lets every Commit fail with err until it is called with nil.
func (s *Store) FailWith(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// Commits returns how many commits succeeded.
func (s *Store) Commits() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// Tries returns how many commits were tried.
func (s *Store) Tries() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tries
}

// Audit returns the audit log, oldest first. The caller owns the slice.
func (s *Store) Audit() []tailnet.AuditEntry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.audit)
}

// Policies is the history of the policy, like that of package db.
func (s *Store) Policies(_ context.Context, _ string, limit int, before int64) (page []tailnet.PolicyVersion, next int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range slices.Backward(s.past) {
		switch {
		case before > 0 && int64(p.Revision) >= before:
		case limit > 0 && len(page) == limit:
			return page, int64(page[limit-1].Revision), nil
		default:
			page = append(page, tailnet.PolicyVersion{Revision: p.Revision, ETag: p.ETag, Updated: p.Updated, By: p.By, Size: len(p.Source)})
		}
	}
	return page, 0, nil
}

// Policy is a policy of the history, like that of package db.
func (s *Store) Policy(_ context.Context, _ string, revision int64, etag string) (*tailnet.Policy, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range slices.Backward(s.past) {
		if revision != 0 && int64(p.Revision) == revision || revision == 0 && strings.HasPrefix(p.ETag, etag) {
			return p, nil
		}
	}
	return nil, nil
}

// SetPolicy prepares a policy against the draft and sets it.
func SetPolicy(tx *tailnet.Tx, source string) error {
	p, err := tailnet.PreparePolicy(tx.Snapshot(), source)
	if err != nil {
		return err
	}
	return tx.SetPolicy(p, "")
}

func apply[ID comparable, T any](m *map[ID]T, c tailnet.Changes[ID, T]) {
	if *m == nil {
		*m = map[ID]T{}
	}
	maps.Copy(*m, c.Put)
	for id := range c.Drop {
		delete(*m, id)
	}
}

func clone[ID comparable, T any](c tailnet.Changes[ID, T]) tailnet.Changes[ID, T] {
	return tailnet.Changes[ID, T]{Put: maps.Clone(c.Put), Drop: maps.Clone(c.Drop)}
}

// merge adds later changes to c.
func merge[ID comparable, T any](c *tailnet.Changes[ID, T], later tailnet.Changes[ID, T]) {
	if c.Put == nil {
		c.Put, c.Drop = map[ID]T{}, map[ID]bool{}
	}
	for id, v := range later.Put {
		c.Put[id] = v
		delete(c.Drop, id)
	}
	for id := range later.Drop {
		delete(c.Put, id)
		c.Drop[id] = true
	}
}

func values[ID cmp.Ordered, T any](m map[ID]T) []T {
	var out []T
	for _, id := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[id])
	}
	return out
}
