//go:build linux

package integration_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"testing"
	"time"

	"heddle/integration/lab"
	"heddle/integration/stock"

	"tailscale.com/client/tailscale/v2"
	"tailscale.com/ipn/ipnstate"
)

// testEnrolment lets three devices in: one by a key that the program makes, one with a tag, and one that
// waits until the program lets it in.
func (p *program) testEnrolment(t *testing.T) {
	yes := true
	must(t, p.TailnetSettings().Update(t.Context(), tailscale.UpdateTailnetSettingsRequest{DevicesApprovalOn: &yes}))
	key := p.authKey(t, p.Keys().CreateAuthKey, p.tags...)
	p.anna.Up(t, key.Key)
	if got := ok[*tailscale.Key](t)(p.Keys().Get(t.Context(), key.ID)); !got.Invalid || got.Key != "" {
		t.Errorf("the key that was used up: %+v", got)
	}
	p.ruth.Up(t, p.authKey(t, p.Keys().Create, "tag:router").Key)
	p.anna.AwaitOnline(t, 10*time.Second, p.ruth)
	if tags := p.ruth.Status(t).Self.Tags; tags == nil || !slices.Equal(tags.AsSlice(), []string{"tag:router"}) {
		t.Errorf("ruth has the tags %v", tags)
	}

	up, err := p.dave.Host.Start("up", nil, p.dave.CommandLine(p.dave.UpArgs(p.server.authKey(t, "alice"))...)...)
	must(t, err)
	p.dave.AwaitState(t, 2*seconds, "NeedsMachineAuth")
	list := ok[[]tailscale.Device](t)(p.Devices().List(t.Context(), tailscale.WithFilter("authorized", []string{"false"})))
	if len(list) != 1 || list[0].Hostname != "dave" || list[0].Authorized {
		t.Fatalf("devices that wait: %+v", list)
	}
	must(t, p.Devices().SetAuthorized(t.Context(), list[0].NodeID, true))
	took := p.dave.AwaitState(t, seconds, "Running")
	t.Logf("an authorized device runs after %v", took)
	done(t, up)
	p.anna.AwaitOnline(t, 10*time.Second, p.dave)
	p.reach(t, p.anna, p.dave)

	// What the API says is what the devices are; where they are comes a moment after them.
	lab.Await(t, 10*time.Second, "the API tells of the devices", func() error {
		all, err := p.Devices().ListWithAllFields(t.Context())
		if len(all) != 3 || err != nil {
			return fmt.Errorf("%d devices, %w", len(all), err)
		}
		for _, d := range all {
			c := map[string]*stock.Client{"anna": p.anna, "ruth": p.ruth, "dave": p.dave}[d.Hostname]
			st := c.Status(t)
			if !d.ConnectedToControl || d.LastSeen != nil || d.Addresses[0] != c.IPv4(t).String() || d.Addresses[1] != c.IPv6(t).String() ||
				d.NodeKey != st.Self.PublicKey.String() || d.NodeID != string(st.Self.ID) || d.ClientVersion != st.Version || d.OS != "linux" ||
				d.ClientConnectivity == nil || len(d.ClientConnectivity.Endpoints) == 0 {
				return fmt.Errorf("%+v, the client is %+v", d, st.Self)
			}
		}
		return nil
	})
}

func (p *program) testRoutes(t *testing.T) {
	route, box := p.site.Prefix.String(), netip.AddrPortFrom(p.site.Addr(80).Addr(), 80)
	p.anna.MustCLI(t, "set", "--accept-routes")
	p.ruth.MustCLI(t, "set", "--advertise-routes="+route)
	id := p.device(t, "ruth").NodeID
	lab.Await(t, 10*time.Second, "the API tells the route", func() error {
		if r, err := p.Devices().SubnetRoutes(t.Context(), id); err != nil || !slices.Equal(r.Advertised, []string{route}) || len(r.Enabled) != 0 {
			return fmt.Errorf("%+v, %w", r, err)
		}
		return nil
	})
	if seen, err := fetch(p.anna.Host, box, time.Second); err == nil {
		t.Fatalf("the box answered before the route was enabled, to %s", seen)
	}
	carries := func(want bool) {
		t.Helper()
		p.anna.Await(t, seconds, fmt.Sprintf("ruth carries the route: %v", want), func(st *ipnstate.Status) error {
			peer := stock.Peer(st, "ruth")
			if peer == nil || slices.Contains(peer.AllowedIPs.AsSlice(), p.site.Prefix) != want {
				return fmt.Errorf("ruth is %+v", peer)
			}
			return nil
		})
	}
	must(t, p.Devices().SetSubnetRoutes(t.Context(), id, []string{route}))
	carries(true)
	awaitFetch(t, 10*time.Second, p.anna.Host, box, p.site.Addr(11).Addr())
	if d := ok[*tailscale.Device](t)(p.Devices().GetWithAllFields(t.Context(), id)); !slices.Equal(d.EnabledRoutes, []string{route}) {
		t.Errorf("%+v", d)
	}
	must(t, p.Devices().SetSubnetRoutes(t.Context(), id, []string{}))
	carries(false)
}

// testDevices changes dave in all ways.
func (p *program) testDevices(t *testing.T) {
	id, devices := p.device(t, "dave").NodeID, p.Devices()
	must(t, devices.SetName(t.Context(), id, "desk"))
	p.anna.Await(t, seconds, "knows dave as desk", func(st *ipnstate.Status) error {
		if stock.Peer(st, "desk") == nil {
			return fmt.Errorf("it knows %s", stock.PeerNames(st))
		}
		return nil
	})
	must(t, devices.SetIPv4Address(t.Context(), id, p.address.String()))
	p.dave.Await(t, seconds, "has the new address", func(st *ipnstate.Status) error {
		if !slices.Contains(st.TailscaleIPs, p.address) {
			return fmt.Errorf("it has %v", st.TailscaleIPs)
		}
		return nil
	})
	p.reach(t, p.anna, p.dave)

	expires := func(want bool) {
		t.Helper()
		p.dave.Await(t, seconds, fmt.Sprintf("has a key that expires: %v", want), func(st *ipnstate.Status) error {
			if (st.Self.KeyExpiry != nil) != want {
				return fmt.Errorf("it expires %v", st.Self.KeyExpiry)
			}
			return nil
		})
	}
	expires(true)
	must(t, devices.SetKey(t.Context(), id, tailscale.DeviceKey{KeyExpiryDisabled: true}))
	expires(false)
	must(t, devices.SetKey(t.Context(), id, tailscale.DeviceKey{KeyExpiryDisabled: false}))
	expires(true)
	p.post(t, "device/"+id+"/expire")
	took := p.dave.AwaitState(t, seconds, "NeedsLogin")
	t.Logf("the client of an expired device knew it after %v", took)
	p.dave.Up(t, p.server.authKey(t, "alice"))
	p.reach(t, p.anna, p.dave)

	must(t, devices.SetTags(t.Context(), id, []string{"tag:desk"}))
	p.anna.Await(t, seconds, "sees dave's tag", func(st *ipnstate.Status) error {
		if peer := stock.Peer(st, "desk"); peer == nil || peer.Tags == nil || !slices.Equal(peer.Tags.AsSlice(), []string{"tag:desk"}) {
			return fmt.Errorf("dave is %+v", peer)
		}
		return nil
	})
	if d := ok[*tailscale.Device](t)(devices.Get(t.Context(), id)); d.Name != "desk."+baseDomain || d.Addresses[0] != p.address.String() ||
		!slices.Equal(d.Tags, []string{"tag:desk"}) || !d.KeyExpiryDisabled {
		t.Errorf("%+v", d)
	}
	// Whoever is no longer authorized is out, until he is again.
	must(t, devices.SetAuthorized(t.Context(), id, false))
	p.dave.AwaitState(t, seconds, "NeedsMachineAuth")
	p.anna.AwaitGone(t, seconds, "desk")
	must(t, devices.SetAuthorized(t.Context(), id, true))
	p.dave.AwaitState(t, seconds, "Running")
	p.reach(t, p.anna, p.dave)
}

// awaitPing waits until anna's pings reach dave, or do not.
func (p *program) awaitPing(t *testing.T, want bool) {
	t.Helper()
	lab.Await(t, 10*time.Second, fmt.Sprintf("anna reaches dave: %v", want), func() error {
		out, err := p.anna.Run(t.Context(), "ping", "-c1", "-W1", p.address.String())
		if (err == nil) != want {
			return fmt.Errorf("ping: %v: %s", err, out)
		}
		return nil
	})
}

const everything = `{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]}`

func (p *program) testPolicy(t *testing.T) {
	acl := p.PolicyFile()
	const shut = "// nowhere\n" + `{"grants": [{"src": ["*"], "dst": ["192.0.2.1"], "ip": ["*"]}]}` + "\n"
	before := ok[*tailscale.RawACL](t)(acl.Raw(t.Context()))
	must(t, acl.Validate(t.Context(), shut))
	if err := acl.Validate(t.Context(), `{"grants": 7}`); err == nil {
		t.Error("a policy that is none is valid")
	}
	p.awaitPing(t, true)
	must(t, acl.Set(t.Context(), shut, before.ETag))
	p.awaitPing(t, false)
	if now := ok[*tailscale.RawACL](t)(acl.Raw(t.Context())); now.HuJSON != shut || now.ETag == before.ETag {
		t.Errorf("%+v", now)
	}
	var refused tailscale.APIError
	if err := acl.Set(t.Context(), everything, before.ETag); !errors.As(err, &refused) || refused.Status != http.StatusPreconditionFailed {
		t.Errorf("with an old ETag: %v", err)
	}
	parsed := ok[*tailscale.ACL](t)(acl.Get(t.Context()))
	parsed.Grants[0].Destination = []string{"*"}
	if got := ok[*tailscale.ACL](t)(acl.SetAndGet(t.Context(), *parsed, parsed.ETag)); len(got.Grants) != 1 || got.Grants[0].Destination[0] != "*" || got.ETag == parsed.ETag {
		t.Errorf("%+v", got)
	}
	p.awaitPing(t, true)
}

// testAttributes lets anna reach dave as long as the program says that she is trusted.
func (p *program) testAttributes(t *testing.T) {
	id, devices := p.device(t, "anna").NodeID, p.Devices()
	must(t, p.PolicyFile().Set(t.Context(), `{
		"postures": {"posture:trusted": ["custom:trust == 'high'"]},
		"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"], "srcPosture": ["posture:trusted"]}],
	}`, ""))
	p.awaitPing(t, false)
	must(t, devices.SetPostureAttribute(t.Context(), id, "custom:trust", tailscale.DevicePostureAttributeRequest{
		Value: "high", Expiry: tailscale.Time{Time: time.Now().Add(time.Hour)}, Comment: "looked at it",
	}))
	p.awaitPing(t, true)
	if got := ok[*tailscale.DevicePostureAttributes](t)(devices.GetPostureAttributes(t.Context(), id)); got.Attributes["custom:trust"] != "high" || got.Attributes["node:os"] != "linux" {
		t.Errorf("%+v", got)
	}
	must(t, devices.DeletePostureAttribute(t.Context(), id, "custom:trust"))
	p.awaitPing(t, false)
	must(t, p.PolicyFile().Set(t.Context(), everything, ""))
	p.awaitPing(t, true)
}
