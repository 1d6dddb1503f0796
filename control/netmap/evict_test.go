package netmap_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"heddle/control/netmap"
	"heddle/control/tailnet"
	"heddle/control/tailnet/tailnettest"
	"heddle/policy"
)

// A cache that is far too small for what many classes of viewers see evicts and stays within its
// limit, but for the changes that are being sent, and every map is what an encoder makes that
// never had to forget anything.
func TestFullCacheEvicts(t *testing.T) {
	const (
		limit   = 2 << 20
		nUsers  = 40
		nNodes  = 400
		rounds  = 12
		refresh = 7 // in each round so many nodes get a full map
	)
	f := newFleet(t, 0)
	var users []tailnet.UserID
	var rules []string
	for i := range nUsers {
		users = append(users, f.user(fmt.Sprint("u", i), policy.Member))
		// Everybody sees most others, but not the same ones.
		rules = append(rules, fmt.Sprintf(`{"action": "accept", "src": ["u%d@x.test"], "dst": ["u%d@x.test:%d", "100.64.%d.0/24:%d", "group:third%d:*"]}`,
			i, i, 1000+i, i%2, 2000+i, i%3))
	}
	var groups []string
	for g := range 3 {
		var members []string
		for i := g; i < nUsers; i += 3 {
			members = append(members, fmt.Sprintf(`"u%d@x.test"`, i))
		}
		groups = append(groups, fmt.Sprintf(`"group:third%d": [%s]`, g, strings.Join(members, ",")))
	}
	text := func(port int) string {
		return fmt.Sprintf(`{"groups": {%s}, "acls": [%s, {"action": "accept", "src": ["autogroup:member"], "dst": ["*:%d"]}]}`,
			strings.Join(groups, ","), strings.Join(rules, ","), port)
	}
	set := func(port int) {
		f.update(func(tx *tailnet.Tx) error { return tailnettest.SetPolicy(tx, text(port)) })
	}
	set(1)
	ids := f.crowd(nNodes, users)
	small := netmap.NewEncoder(netmap.Options{ServerURL: "https://heddle.test", CacheBytes: limit})
	large := netmap.NewEncoder(netmap.Options{ServerURL: "https://heddle.test", CacheBytes: 1 << 30})
	within := func(most int) {
		t.Helper()
		if s := small.Stats(); s.Bytes > most || s.Limit != limit {
			t.Fatalf("%d bytes are kept, want at most %d; the limit is %d", s.Bytes, most, s.Limit)
		}
	}
	same := func(what string, id tailnet.NodeID, make func(*netmap.Encoder) (netmap.Message, bool, error)) {
		t.Helper()
		got, changed, err := make(small)
		want, should, err2 := make(large)
		if err != nil || err2 != nil || changed != should {
			t.Fatalf("%s of %d: changed %v, want %v; %v, %v", what, id, changed, should, err, err2)
		}
		if changed && !bytes.Equal(payload(t, got, false), payload(t, want, false)) {
			t.Fatalf("%s of %d differs from that of an encoder with room", what, id)
		}
		within(2 * limit)
	}
	full := func(id tailnet.NodeID) {
		t.Helper()
		s := f.snap()
		same("map", id, func(e *netmap.Encoder) (netmap.Message, bool, error) {
			m, err := e.Full(s, viewer(id), epoch)
			return m, true, err
		})
	}
	for _, id := range ids {
		full(id)
	}
	deltas := func(change func()) {
		t.Helper()
		from := f.snap()
		change()
		to := f.snap()
		for _, id := range ids {
			same("delta", id, func(e *netmap.Encoder) (netmap.Message, bool, error) { return e.Delta(from, to, viewer(id), epoch) })
		}
	}
	for i := range rounds {
		deltas(func() {
			switch i % 4 {
			case 0:
				f.report(ids[i], 5000+i)
			case 1:
				f.join(users[i%nUsers], "new")
			case 2:
				set(i)
			default:
				f.update(func(tx *tailnet.Tx) error {
					for k := i; k < nNodes; k += 3 {
						if err := tx.RenameNode(ids[k], fmt.Sprintf("r%d-%d", i, k)); err != nil {
							return err
						}
					}
					return nil
				})
			}
		})
		for k := range refresh {
			full(ids[(i*31+k*53)%nNodes])
		}
		for k := range 2 { // so that the large change is not one of the last two
			deltas(func() { f.report(ids[i+k], 6000+2*i+k) })
		}
		within(limit)
	}
	s, roomy := small.Stats(), large.Stats()
	if s.Evicted == 0 || s.Bytes == 0 || s.Hits == 0 {
		t.Errorf("stats %+v", s)
	}
	if roomy.Evicted != 0 || roomy.Bytes < 2*limit {
		t.Errorf("with room for all: %+v; the limit of %d is no test", roomy, limit)
	}
}
