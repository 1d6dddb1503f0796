package netmap_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"heddle/control/tailnet"
	"heddle/control/tailnet/tailnettest"
	"heddle/policy"
)

// benchPolicies are the shapes of policies that tailnets have, for 100 users.
func benchPolicies() map[string]string {
	var groups, acls, own []string
	for i := range 50 {
		groups = append(groups, fmt.Sprintf(`"group:g%d": ["u%d@x.test", "u%d@x.test"]`, i, 2*i, 2*i+1))
		acls = append(acls, fmt.Sprintf(`{"action": "accept", "src": ["group:g%d"], "dst": ["group:g%d:*", "tag:s%d:22,443", "10.%d.0.0/16:*"]}`, i, (i+1)%50, i%10, i))
	}
	var tags []string
	for i := range 10 {
		tags = append(tags, fmt.Sprintf(`"tag:s%d": ["u0@x.test"]`, i))
	}
	for i := range 100 {
		own = append(own, fmt.Sprintf(`{"action": "accept", "src": ["u%d@x.test"], "dst": ["u%d@x.test:*", "tag:s%d:*"]}`, i, i, i%10))
	}
	owners := `"tagOwners": {` + strings.Join(tags, ",") + `}`
	return map[string]string{
		"open":   `{` + owners + `, "acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}`,
		"groups": `{` + owners + `, "groups": {` + strings.Join(groups, ",") + `}, "acls": [` + strings.Join(acls, ",") + `]}`,
		"own":    `{` + owners + `, "acls": [` + strings.Join(own, ",") + `]}`,
		"self":   `{` + owners + `, "acls": [{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*", "tag:s1:443"]}]}`,
	}
}

// cpuTime is what this process has used. On a busy machine it says more than the time that passed.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPolicies is what a change costs each session where not everybody sees
// everybody. A tenth of the nodes has tags, a twentieth are subnet routers.
func BenchmarkPolicies(b *testing.B) {
	const n = 5000
	f := newFleet(b, 3)
	var users []tailnet.UserID
	for i := range 100 {
		role := policy.Member
		if i == 0 {
			role = policy.Owner
		}
		users = append(users, f.user(fmt.Sprint("u", i), role))
	}
	policies := benchPolicies()
	set := func(name string) {
		f.update(func(tx *tailnet.Tx) error { return tailnettest.SetPolicy(tx, policies[name]) })
	}
	set("open")
	ids := f.crowd(n, users)
	f.update(func(tx *tailnet.Tx) error {
		for i := 0; i < n; i += 10 {
			if err := tx.SetTags(ids[i], []string{fmt.Sprint("tag:s", i/10%10)}); err != nil {
				return err
			}
		}
		return nil
	})
	port := 1000 // another one each time
	ops := []struct {
		name string
		do   func(i int)
	}{
		{"endpoint", func(i int) { port++; f.report(ids[(i*37)%n], port) }},
		{"join", func(i int) { f.join(users[i%100], "new") }},
		{"policy", nil},
	}
	for _, name := range []string{"open", "groups", "own", "self"} {
		set(name)
		for _, op := range ops {
			b.Run(name+"/"+op.name, func(b *testing.B) {
				var buf []byte
				bytes := 0
				var cpu time.Duration
				for i := 0; b.Loop(); i++ {
					b.StopTimer()
					from := f.snap()
					if op.name == "policy" {
						set("open")
						from = f.snap()
						set(name)
					} else {
						op.do(i)
					}
					to := f.snap()
					b.StartTimer()
					began := cpuTime(b)
					for _, id := range ids {
						m, changed, err := f.enc.Delta(from, to, viewer(id), epoch)
						if err != nil {
							b.Fatal(err)
						}
						if changed {
							buf = m.AppendTo(buf[:0])
							bytes += len(buf)
						}
					}
					cpu += cpuTime(b) - began
				}
				b.ReportMetric(float64(cpu.Nanoseconds())/float64(b.N*n), "cpu-ns/session")
				b.ReportMetric(float64(bytes)/float64(b.N*n), "wire-B/session")
			})
		}
		b.Run(name+"/full", func(b *testing.B) {
			bytes, began := 0, cpuTime(b)
			for i := 0; b.Loop(); i++ {
				m, err := f.enc.Full(f.snap(), viewer(ids[(i*37)%n]), epoch)
				if err != nil {
					b.Fatal(err)
				}
				bytes = m.Len()
			}
			b.ReportMetric(float64((cpuTime(b)-began).Nanoseconds())/float64(b.N), "cpu-ns/op")
			b.ReportMetric(float64(bytes), "wire-B")
		})
	}
}
