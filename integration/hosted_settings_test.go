//go:build linux

package integration_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"heddle/integration/lab"
	"heddle/integration/stock"

	"tailscale.com/client/tailscale/v2"
	"tailscale.com/ipn/ipnstate"
)

// dnsStatus is what the tests read of `tailscale dns status --json`.
type dnsStatus struct {
	CurrentTailnet    struct{ MagicDNSEnabled bool }
	Resolvers         []struct{ Addr string }
	FallbackResolvers []struct{ Addr string }
	SplitDNSRoutes    map[string][]struct{ Addr string }
	SearchDomains     []string
}

// awaitDNS waits until anna's client passes check.
func (p *program) awaitDNS(t *testing.T, what string, check func(dnsStatus) bool) {
	t.Helper()
	lab.Await(t, seconds, "anna's DNS: "+what, func() error {
		out, err := p.anna.CLI(t.Context(), "dns", "status", "--json")
		if err != nil {
			return err
		}
		var st dnsStatus
		if err := json.Unmarshal([]byte(out), &st); err != nil {
			return err
		}
		if !check(st) {
			return errors.New(out)
		}
		return nil
	})
}

func (p *program) testDNS(t *testing.T) {
	ctx, dns := t.Context(), p.DNS()
	first := ok[*tailscale.DNSConfiguration](t)(dns.Configuration(ctx))
	must(t, dns.SetNameservers(ctx, []string{"198.51.100.53"}))
	must(t, dns.SetSearchPaths(ctx, []string{"corp.example.com"}))
	must(t, dns.SetSplitDNS(ctx, tailscale.SplitDNSRequest{"a.example.com": {"198.51.100.54"}}))
	p.awaitDNS(t, "nameserver, search path and split DNS", func(st dnsStatus) bool {
		split := st.SplitDNSRoutes["a.example.com"]
		return len(split) == 1 && split[0].Addr == "198.51.100.54" && len(st.FallbackResolvers) == 1 && st.FallbackResolvers[0].Addr == "198.51.100.53" &&
			slices.Contains(st.SearchDomains, "corp.example.com") && slices.Contains(st.SearchDomains, baseDomain)
	})
	updated := ok[tailscale.SplitDNSResponse](t)(dns.UpdateSplitDNS(ctx, tailscale.SplitDNSRequest{"a.example.com": nil, "b.example.com": {"198.51.100.55"}}))
	split := ok[tailscale.SplitDNSResponse](t)(dns.SplitDNS(ctx))
	if len(updated) != 1 || len(split) != 1 || !slices.Equal(split["b.example.com"], []string{"198.51.100.55"}) {
		t.Errorf("%v, then %v", updated, split)
	}
	p.awaitDNS(t, "the other domain alone", func(st dnsStatus) bool {
		return len(st.SplitDNSRoutes["a.example.com"]) == 0 && len(st.SplitDNSRoutes["b.example.com"]) == 1
	})
	must(t, dns.SetPreferences(ctx, tailscale.DNSPreferences{MagicDNS: false}))
	p.awaitDNS(t, "no MagicDNS", func(st dnsStatus) bool { return !st.CurrentTailnet.MagicDNSEnabled })
	if got := ok[*tailscale.DNSPreferences](t)(dns.Preferences(ctx)); got.MagicDNS {
		t.Errorf("%+v", got)
	}
	if got := ok[[]string](t)(dns.Nameservers(ctx)); !slices.Equal(got, []string{"198.51.100.53"}) {
		t.Errorf("%v", got)
	}
	if got := ok[[]string](t)(dns.SearchPaths(ctx)); !slices.Equal(got, []string{"corp.example.com"}) {
		t.Errorf("%v", got)
	}
	whole := tailscale.DNSConfiguration{Nameservers: []tailscale.DNSConfigurationResolver{{Address: "198.51.100.56"}}}
	whole.Preferences.MagicDNS, whole.Preferences.OverrideLocalDNS = true, true
	must(t, dns.SetConfiguration(ctx, whole))
	p.awaitDNS(t, "another configuration", func(st dnsStatus) bool {
		return st.CurrentTailnet.MagicDNSEnabled && len(st.Resolvers) == 1 && st.Resolvers[0].Addr == "198.51.100.56" &&
			len(st.SplitDNSRoutes["b.example.com"]) == 0 && !slices.Contains(st.SearchDomains, "corp.example.com")
	})
	must(t, dns.SetConfiguration(ctx, *first))
	p.awaitDNS(t, "as it was", func(st dnsStatus) bool { return len(st.Resolvers) == 0 })
}

// testKeys makes, changes and deletes each sort of key. A deleted one is good for nothing.
func (p *program) testKeys(t *testing.T) {
	ctx, keys := t.Context(), p.Keys()
	auth := p.authKey(t, keys.CreateAuthKey, "tag:web")
	client := ok[*tailscale.Key](t)(keys.CreateOAuthClient(ctx, tailscale.CreateOAuthClientRequest{
		Scopes: []string{"devices:core:read"}, Tags: []string{"tag:web"},
	}))
	p.server.secrets = append(p.server.secrets, client.Key)
	other := p.program(t, "", &tailscale.OAuth{ClientID: client.ID, ClientSecret: client.Key})
	if got := ok[[]tailscale.Device](t)(other.Devices().List(ctx)); len(got) != 3 {
		t.Errorf("it sees %+v", got)
	}
	changed := ok[*tailscale.Key](t)(keys.SetOAuthClient(ctx, client.ID, tailscale.SetOAuthClientRequest{
		Scopes: []string{"dns:read"}, Tags: []string{"tag:web"}, Description: "DNS now",
	}))
	if !slices.Equal(changed.Scopes, []string{"dns:read"}) || changed.Description != "DNS now" || changed.Key != "" {
		t.Errorf("%+v", changed)
	}
	if _, err := other.Devices().List(ctx); err == nil {
		t.Error("an OAuth client keeps the scope that was taken from it")
	}
	types := map[string]string{}
	for _, k := range ok[[]tailscale.Key](t)(keys.List(ctx, true)) {
		types[k.ID] = k.KeyType
	}
	if types[auth.ID] != "auth" || types[client.ID] != "client" {
		t.Errorf("%v", types)
	}
	for _, id := range []string{auth.ID, client.ID} {
		must(t, keys.Delete(ctx, id))
		if _, err := keys.Get(ctx, id); !tailscale.IsNotFound(err) {
			t.Errorf("a deleted key: %v", err)
		}
	}
	again := p.program(t, "", &tailscale.OAuth{ClientID: client.ID, ClientSecret: client.Key})
	if _, err := again.DNS().Nameservers(ctx); err == nil {
		t.Error("a deleted OAuth client gets a token")
	}
}

// testFederated lets a program in that has no secret, but a token that the server itself gave to anna.
func (p *program) testFederated(t *testing.T) {
	ctx, keys := t.Context(), p.Keys()
	made := ok[*tailscale.Key](t)(keys.CreateFederatedIdentity(ctx, tailscale.CreateFederatedIdentityRequest{
		Scopes: []string{"dns:read"}, Tags: []string{"tag:web"}, Issuer: serverURL, Subject: "nobody.*", Audience: "admin",
	}))
	use := func() error {
		other := p.program(t, "", &tailscale.IdentityFederation{ClientID: made.ID, IDTokenFunc: func() (string, error) {
			token, err := p.anna.CLI(ctx, "id-token", "admin")
			if err != nil {
				return "", err
			}
			token = strings.TrimSpace(token)
			p.server.secrets = append(p.server.secrets, token)
			return token, nil
		}})
		_, err := other.Users().List(ctx, nil, nil)
		return err
	}
	if err := use(); err == nil {
		t.Error("a token of somebody else was taken")
	}
	set := ok[*tailscale.Key](t)(keys.SetFederatedIdentity(ctx, made.ID, tailscale.SetFederatedIdentityRequest{
		Scopes: []string{"users:read"}, Tags: []string{"tag:web"}, Issuer: serverURL, Subject: "anna.*", Audience: "admin",
	}))
	if set.Subject != "anna.*" || !slices.Equal(set.Scopes, []string{"users:read"}) {
		t.Errorf("%+v", set)
	}
	must(t, use())
	must(t, keys.Delete(ctx, made.ID))
}

func (p *program) testAccount(t *testing.T) {
	ctx := t.Context()
	users := ok[[]tailscale.User](t)(p.Users().List(ctx, nil, nil))
	if len(users) != 1 || users[0].Role != tailscale.UserRoleOwner || !strings.HasPrefix(users[0].LoginName, "alice") {
		t.Fatalf("%+v", users)
	}
	if u := ok[*tailscale.User](t)(p.Users().Get(ctx, users[0].ID)); u.LoginName != users[0].LoginName || u.Status != tailscale.UserStatusActive {
		t.Errorf("%+v", u)
	}
	if got := ok[*tailscale.TailnetSettings](t)(p.TailnetSettings().Get(ctx)); !got.DevicesApprovalOn {
		t.Errorf("%+v", got)
	}
	email := "security@example.com"
	must(t, p.Contacts().Update(ctx, tailscale.ContactSecurity, tailscale.UpdateContactRequest{Email: &email}))
	if got := ok[*tailscale.Contacts](t)(p.Contacts().Get(ctx)); got.Security.Email != email {
		t.Errorf("%+v", got)
	}
	must(t, p.Logging().GetNetworkFlowLogs(ctx, tailscale.NetworkFlowLogsRequest{Start: time.Now().Add(-time.Hour), End: time.Now()},
		func(log tailscale.NetworkFlowLog) error { return fmt.Errorf("a log of a flow: %+v", log) }))
	if got := ok[[]tailscale.VIPService](t)(p.VIPServices().List(ctx)); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

// A delivery is what a receiver of webhooks got.
type delivery struct {
	signature string
	body      []byte
}

// signed reports whether the delivery is of whoever knows the secret.
func (d delivery) signed(secret string) bool {
	at, sum, _ := strings.Cut(strings.TrimPrefix(d.signature, "t="), ",v1=")
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%s.%s", at, d.body)
	return hex.EncodeToString(mac.Sum(nil)) == sum
}

func (p *program) testWebhooks(t *testing.T) {
	ctx, hooks := t.Context(), p.Webhooks()
	got := make(chan delivery, 100)
	ln, err := p.admin.Listen("0.0.0.0:8080")
	must(t, err)
	receiver := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- delivery{r.Header.Get("Tailscale-Webhook-Signature"), body}
	})}
	var wg sync.WaitGroup
	wg.Go(func() { receiver.Serve(ln) })
	defer wg.Wait()
	defer receiver.Close()
	next := func() delivery {
		t.Helper()
		select {
		case d := <-got:
			return d
		case <-time.After(2 * seconds):
			t.Fatal("nothing was delivered")
			panic("unreachable")
		}
	}

	made := ok[*tailscale.Webhook](t)(hooks.Create(ctx, tailscale.CreateWebhookRequest{
		EndpointURL: "http://198.51.100.24:8080/hook", Subscriptions: []tailscale.WebhookSubscriptionType{tailscale.WebhookNodeCreated},
	}))
	p.server.secrets = append(p.server.secrets, *made.Secret)
	must(t, hooks.Test(ctx, made.EndpointID))
	if d := next(); !d.signed(*made.Secret) || !bytes.Contains(d.body, []byte(`"type":"test"`)) || d.body[0] != '[' {
		t.Errorf("%s %s", d.signature, d.body)
	}
	rotated := ok[*tailscale.Webhook](t)(hooks.RotateSecret(ctx, made.EndpointID))
	p.server.secrets = append(p.server.secrets, *rotated.Secret)
	updated := ok[*tailscale.Webhook](t)(hooks.Update(ctx, made.EndpointID, []tailscale.WebhookSubscriptionType{tailscale.WebhookPolicyUpdate}))
	if len(updated.Subscriptions) != 1 || updated.Subscriptions[0] != tailscale.WebhookPolicyUpdate || updated.Secret != nil {
		t.Errorf("%+v", updated)
	}
	must(t, p.PolicyFile().Set(ctx, "// told\n"+everything, ""))
	d := next()
	var events []struct {
		Type, Tailnet string
		Data          map[string]any
	}
	if err := json.Unmarshal(d.body, &events); err != nil || !d.signed(*rotated.Secret) || len(events) != 1 || events[0].Type != "policyUpdate" || events[0].Tailnet != baseDomain {
		t.Errorf("%v: %s", err, d.body)
	}
	if w := ok[*tailscale.Webhook](t)(hooks.Get(ctx, made.EndpointID)); w.Secret != nil || w.EndpointURL != made.EndpointURL {
		t.Errorf("%+v", w)
	}
	if list := ok[[]tailscale.Webhook](t)(hooks.List(ctx)); len(list) != 1 {
		t.Errorf("%+v", list)
	}
	must(t, hooks.Delete(ctx, made.EndpointID))
	if _, err := hooks.Get(ctx, made.EndpointID); !tailscale.IsNotFound(err) {
		t.Errorf("a deleted webhook: %v", err)
	}
}

// absent are the methods for what heddle does not have, and what it calls that. They are
// answered with 501 and a text for people, never with 404, which would say "no such thing yet".
var absent = map[string]struct {
	says string
	call func(*testing.T, *tailscale.Client) error
}{
	"DevicePostureResource.ListIntegrations": {"posture integrations", func(t *testing.T, c *tailscale.Client) error {
		_, err := c.DevicePosture().ListIntegrations(t.Context())
		return err
	}},
	"DevicePostureResource.CreateIntegration": {"posture integrations", func(t *testing.T, c *tailscale.Client) error {
		_, err := c.DevicePosture().CreateIntegration(t.Context(), tailscale.CreatePostureIntegrationRequest{Provider: tailscale.PostureIntegrationProviderFleet})
		return err
	}},
	"DevicePostureResource.UpdateIntegration": {"posture integrations", func(t *testing.T, c *tailscale.Client) error {
		_, err := c.DevicePosture().UpdateIntegration(t.Context(), "p1", tailscale.UpdatePostureIntegrationRequest{})
		return err
	}},
	"DevicePostureResource.GetIntegration": {"posture integrations", func(t *testing.T, c *tailscale.Client) error {
		_, err := c.DevicePosture().GetIntegration(t.Context(), "p1")
		return err
	}},
	"DevicePostureResource.DeleteIntegration": {"posture integrations", func(t *testing.T, c *tailscale.Client) error {
		return c.DevicePosture().DeleteIntegration(t.Context(), "p1")
	}},
	"LoggingResource.LogstreamConfiguration": {"log streaming", func(t *testing.T, c *tailscale.Client) error {
		_, err := c.Logging().LogstreamConfiguration(t.Context(), tailscale.LogTypeConfig)
		return err
	}},
	"LoggingResource.SetLogstreamConfiguration": {"log streaming", func(t *testing.T, c *tailscale.Client) error {
		return c.Logging().SetLogstreamConfiguration(t.Context(), tailscale.LogTypeConfig, tailscale.SetLogstreamConfigurationRequest{})
	}},
	"LoggingResource.DeleteLogstreamConfiguration": {"log streaming", func(t *testing.T, c *tailscale.Client) error {
		return c.Logging().DeleteLogstreamConfiguration(t.Context(), tailscale.LogTypeNetwork)
	}},
	"LoggingResource.CreateOrGetAwsExternalId": {"log streaming", func(t *testing.T, c *tailscale.Client) error {
		_, err := c.Logging().CreateOrGetAwsExternalId(t.Context(), true)
		return err
	}},
	"LoggingResource.ValidateAWSTrustPolicy": {"log streaming", func(t *testing.T, c *tailscale.Client) error {
		return c.Logging().ValidateAWSTrustPolicy(t.Context(), "an-id", "arn:aws:iam::1:role/x")
	}},
	"VIPServicesResource.Get": {"services", func(t *testing.T, c *tailscale.Client) error {
		_, err := c.VIPServices().Get(t.Context(), "svc:web")
		return err
	}},
	"VIPServicesResource.CreateOrUpdate": {"services", func(t *testing.T, c *tailscale.Client) error {
		return c.VIPServices().CreateOrUpdate(t.Context(), tailscale.VIPService{Name: "svc:web", Ports: []string{"tcp:443"}})
	}},
	"VIPServicesResource.Delete": {"services", func(t *testing.T, c *tailscale.Client) error {
		return c.VIPServices().Delete(t.Context(), "svc:web")
	}},
}

func (p *program) testAbsent(t *testing.T) {
	for name, a := range absent {
		var refusal tailscale.APIError
		if err := a.call(t, p.Client); !errors.As(err, &refusal) || refusal.Status != http.StatusNotImplemented || !strings.Contains(refusal.Message, a.says) {
			t.Errorf("%s: %v; want 501 and a word of %s", name, err, a.says)
		}
	}
}

// testDeletion throws all devices out.
func (p *program) testDeletion(t *testing.T) {
	devices := p.Devices()
	for _, c := range []struct {
		client *stock.Client
		name   string // in the tailnet
	}{{p.dave, "desk"}, {p.ruth, "ruth"}, {p.anna, "anna"}} {
		id := p.device(t, c.client.Name).NodeID
		must(t, devices.Delete(t.Context(), id))
		took := c.client.AwaitState(t, seconds, "NeedsLogin")
		t.Logf("%s knew after %v that it was deleted", c.client.Name, took)
		if _, err := devices.Get(t.Context(), id); !tailscale.IsNotFound(err) {
			t.Errorf("a deleted device: %v", err)
		}
		if c.client != p.anna {
			p.anna.AwaitGone(t, seconds, c.name)
		}
	}
	p.anna.Await(t, seconds, "knows nobody", func(st *ipnstate.Status) error {
		if len(st.Peer) > 0 {
			return fmt.Errorf("it knows %s", stock.PeerNames(st))
		}
		return nil
	})
}
