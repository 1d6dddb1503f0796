//go:build linux

package integration_test

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"heddle/integration/lab"
	"heddle/integration/stock"

	"tailscale.com/client/tailscale/v2"
)

// managed is a mesh whose administrator, on a machine of his own, has nothing but the Go client of
// the hosted service's API.
type managed struct {
	*mesh
	admin            *lab.Host
	site             *lab.Site // with a plain box
	anna, ruth, dave *stock.Client
}

// TestHostedAPI has the hosted service's Go client call every method that it has, once with an API key
// and once as an OAuth client, and looks at what real devices make of it.
func TestHostedAPI(t *testing.T) {
	m := newMesh(t)
	m.server.must(t, "users", "role", "alice", "owner")
	m.server.host.SetName(serverName, serverAddr) // it is an issuer that it trusts
	site := m.inet.Site("work", 14)
	serveWeb(t, site.Host("box", 80), 80)
	h := &managed{
		mesh: m, admin: m.inet.Host("admin", 24), site: site,
		anna: m.client(t, m.inet.Host("anna", 21)),
		ruth: m.client(t, site.Host("ruth", 11)),
		dave: m.client(t, m.inet.Host("dave", 23)),
	}
	h.ruth.Forward()
	secret := m.server.must(t, "apikeys", "create", "--user", "alice")
	m.server.secrets = append(m.server.secrets, secret)
	owner := h.program(t, secret, nil)
	made := ok[*tailscale.Key](t)(owner.Keys().CreateOAuthClient(t.Context(), tailscale.CreateOAuthClientRequest{
		Scopes: []string{"all"}, Tags: []string{"tag:web", "tag:router", "tag:desk"}, Description: "drives everything",
	}))
	m.server.secrets = append(m.server.secrets, made.Key)
	oauth := h.program(t, "", &tailscale.OAuth{ClientID: "some-client-id", ClientSecret: made.Key})
	oauth.tags, oauth.address = []string{"tag:web"}, netip.MustParseAddr("100.64.7.8")

	for _, c := range []struct {
		name string
		*program
	}{{"API key", owner}, {"OAuth client", oauth}} {
		content := t.Run(c.name, func(t *testing.T) {
			for _, device := range []*stock.Client{h.anna, h.ruth, h.dave} {
				device.Forget(t)
				device.Start(t)
			}
			for _, part := range []struct {
				name string
				run  func(*testing.T)
			}{
				{"enrolment", c.testEnrolment},
				{"routes", c.testRoutes},
				{"devices", c.testDevices},
				{"policy", c.testPolicy},
				{"posture attributes", c.testAttributes},
				{"DNS", c.testDNS},
				{"keys", c.testKeys},
				{"federated identity", c.testFederated},
				{"users, settings, contacts", c.testAccount},
				{"webhooks", c.testWebhooks},
				{"what heddle does not have", c.testAbsent},
				{"deletion", c.testDeletion},
			} {
				if !t.Run(part.name, part.run) {
					t.FailNow() // the parts build on each other
				}
			}
			c.called.check(t)
		})
		if !content {
			return // devices are left over
		}
	}
}

// A program manages the mesh with one credential.
type program struct {
	*managed
	*tailscale.Client
	called  *recorder
	tags    []string   // of devices that it lets in; nil: they are the user's
	address netip.Addr // that it gives to a device
}

// program makes one that has an API key or something else.
func (h *managed) program(t *testing.T, apiKey string, auth tailscale.Auth) *program {
	t.Helper()
	called := &recorder{next: byAddress{trustingClient(t, h.lab, h.admin).Transport}}
	// The client asks for the tokens of OAuth clients with the default one.
	was := http.DefaultClient.Transport
	http.DefaultClient.Transport = called.next
	t.Cleanup(func() { http.DefaultClient.Transport = was })
	return &program{
		managed: h, called: called, address: netip.MustParseAddr("100.64.7.7"),
		Client: &tailscale.Client{
			BaseURL: &url.URL{Scheme: "https", Host: serverName}, APIKey: apiKey, Auth: auth,
			HTTP: &http.Client{Transport: called, Timeout: 20 * time.Second},
		},
	}
}

// ok fails the test on an error, and passes on the value.
func ok[V any](t *testing.T) func(V, error) V {
	return func(v V, err error) V {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// device finds the one device of a host name.
func (p *program) device(t *testing.T, hostname string) tailscale.Device {
	t.Helper()
	list := ok[[]tailscale.Device](t)(p.Devices().List(t.Context(), tailscale.WithFilter("hostname", []string{hostname})))
	if len(list) != 1 {
		t.Fatalf("devices with the host name %s: %+v", hostname, list)
	}
	return list[0]
}

// authKey makes an auth key that works once and needs no approval.
func (p *program) authKey(t *testing.T, create func(context.Context, tailscale.CreateKeyRequest) (*tailscale.Key, error), tags ...string) *tailscale.Key {
	t.Helper()
	var req tailscale.CreateKeyRequest
	req.Description, req.ExpirySeconds = "for a device", 600
	req.Capabilities.Devices.Create.Preauthorized, req.Capabilities.Devices.Create.Tags = true, tags
	key := ok[*tailscale.Key](t)(create(t.Context(), req))
	p.server.secrets = append(p.server.secrets, key.Key)
	return key
}

// recorder notes the methods of the client that made requests, and how those were answered.
type recorder struct {
	next http.RoundTripper

	mu      sync.Mutex
	answers map[string][]int // by method, such as DevicesResource.List
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.next.RoundTrip(req)
	if method := clientMethod(); err == nil && method != "" {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.answers == nil {
			r.answers = map[string][]int{}
		}
		r.answers[method] = append(r.answers[method], resp.StatusCode)
	}
	return resp, err
}

var methodName = regexp.MustCompile(`^tailscale\.com/client/tailscale/v2\.\(\*(\w+Resource)\)\.([A-Z]\w*)$`)

// clientMethod is the client's method that this goroutine is in: of several the one that was called first.
func clientMethod() (name string) {
	pcs := make([]uintptr, 100)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs)])
	for {
		frame, more := frames.Next()
		if m := methodName.FindStringSubmatch(frame.Function); m != nil {
			name = m[1] + "." + m[2]
		}
		if !more {
			return name
		}
	}
}

// check asserts that each method of the client reached the server and was answered as it should be. A new
// version of the client cannot bring methods that nobody looks at.
func (r *recorder) check(t *testing.T) {
	t.Helper()
	client := reflect.TypeFor[*tailscale.Client]()
	for i := range client.NumMethod() {
		m := client.Method(i)
		if m.Type.NumOut() != 1 || !strings.HasSuffix(m.Type.Out(0).String(), "Resource") {
			t.Errorf("%s is a new sort of method of the client: nobody calls it", m.Name)
			continue
		}
		resource := m.Type.Out(0)
		for j := range resource.NumMethod() {
			method := resource.Method(j).Name
			if _, inherited := client.MethodByName(method); inherited {
				continue
			}
			name := resource.Elem().Name() + "." + method
			want := http.StatusOK
			if _, ok := absent[name]; ok {
				want = http.StatusNotImplemented
			}
			if answers := r.answers[name]; !slices.Contains(answers, want) {
				t.Errorf("%s was answered with %v, never with %d", name, answers, want)
			}
			delete(r.answers, name)
		}
	}
	for name := range r.answers {
		t.Errorf("%s is not a method of the client", name)
	}
}

// post calls what the client has no method for.
func (p *program) post(t *testing.T, path string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", p.BaseURL.String()+"/api/v2/"+path, nil)
	must(t, err)
	if p.APIKey != "" {
		req.SetBasicAuth(p.APIKey, "")
	}
	resp := ok[*http.Response](t)(p.HTTP.Do(req))
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("POST %s: %s", path, resp.Status)
	}
}
