package zones_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"heddle/cmd/heddle/serve/zones"
	"heddle/integration/dnsapi"

	"github.com/google/go-cmp/cmp"
	"github.com/libdns/libdns"
)

const (
	name   = "_acme-challenge.vpn.example.com"
	token  = "v1-token-of-the-test-0123456789abcdefghij"
	keyID  = "AKIAIOSFODNN7EXAMPLE"
	secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
)

// provider is what a certificate is obtained with.
type provider interface {
	libdns.RecordAppender
	libdns.RecordDeleter
	libdns.ZoneLister
}

// place is a provider and the server that it talks to.
type place struct {
	provider
	server dnsapi.Server
	fail   func(after int, by ...http.HandlerFunc)
	put    func(name string, values ...string) // makes records that are not ours
}

// proof is the record that the tests write.
func proof(value string) []libdns.Record {
	return []libdns.Record{libdns.TXT{Name: "_acme-challenge.vpn", TTL: time.Minute, Text: value}}
}

func cloudflare(t *testing.T, token string) place {
	s := &dnsapi.Cloudflare{Token: "v1-token-of-the-test-0123456789abcdefghij"}
	for i := range 120 { // three pages
		s.Zones = append(s.Zones, dnsapi.CloudflareZone{ID: fmt.Sprintf("%032x", i), Name: fmt.Sprintf("zone-%d.example", i), Status: "active", Type: "full"})
	}
	s.Zones = append(s.Zones,
		dnsapi.CloudflareZone{ID: "moved", Name: "example.com", Status: "moved", Type: "full"},
		dnsapi.CloudflareZone{ID: "active", Name: "example.com", Status: "active", Type: "full", NameServers: []string{"ada.ns.cloudflare.com", "bob.ns.cloudflare.com"}},
		dnsapi.CloudflareZone{ID: "pending", Name: "pending.example", Status: "pending", Type: "full"})
	return place{zones.NewCloudflare(token, "", dnsapi.Client(s)), s, s.Fail, func(name string, values ...string) {
		for _, v := range values {
			s.Put("example.com", name, v)
		}
	}}
}

func route53(t *testing.T, keyID, secret string) place {
	s := &dnsapi.Route53{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", Lag: 3}
	for i := range 120 { // two pages
		s.Zones = append(s.Zones, dnsapi.HostedZone{ID: fmt.Sprintf("Z%d", i), Name: fmt.Sprintf("zone-%d.example", i)})
	}
	s.Zones = append(s.Zones, dnsapi.HostedZone{ID: "ZPRIVATE", Name: "example.com", Private: true},
		dnsapi.HostedZone{ID: "ZPUBLIC", Name: "example.com"}, dnsapi.HostedZone{ID: "ZINSIDE", Name: "vpn.example.com", Private: true},
		dnsapi.HostedZone{ID: "Z1TWICE", Name: "twice.example"}, dnsapi.HostedZone{ID: "Z2TWICE", Name: "twice.example"})
	p, err := zones.NewRoute53(t.Context(), zones.Route53Options{AccessKeyID: keyID, SecretAccessKey: secret, Client: dnsapi.Client(s)})
	if err != nil {
		t.Fatal(err)
	}
	return place{p, s, s.Fail, func(name string, values ...string) { s.Put("ZPUBLIC", name, 3600, values...) }}
}

// alone keeps what whoever runs the tests has set for Amazon's programs out of them.
func alone(t *testing.T) {
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	none := filepath.Join(t.TempDir(), "none")
	t.Setenv("AWS_CONFIG_FILE", none)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", none)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
}

// everywhere runs a test at each provider, with a clock that does not wait.
func everywhere(t *testing.T, test func(t *testing.T, p place)) {
	alone(t)
	t.Run("cloudflare", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, cloudflare(t, token)) })
	})
	t.Run("route53", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, route53(t, keyID, secret)) })
	})
}

func (p place) want(t *testing.T, values ...string) {
	t.Helper()
	slices.Sort(values)
	if diff := cmp.Diff(values, slices.Sorted(slices.Values(p.server.Values(name)))); diff != "" {
		t.Errorf("the values of %s (-want +got):\n%s", name, diff)
	}
}

func TestRecords(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		const theirs = `"theirs" "in two parts"`
		p.put(name, theirs, `"prefix-of-one"`)
		p.put("_acme-challenge.other.example.com", `"one"`)
		for _, value := range []string{"one", "two", "one"} { // the last one is there already
			done, err := p.AppendRecords(t.Context(), "example.com.", proof(value))
			if diff := cmp.Diff(proof(value), done); diff != "" || err != nil {
				t.Fatalf("%s: %v (-want +got):\n%s", value, err, diff)
			}
		}
		p.want(t, theirs, `"prefix-of-one"`, `"one"`, `"two"`)
		for _, tc := range []struct {
			value string
			done  []libdns.Record
		}{{"one", proof("one")}, {"one", nil}, {"never", nil}, {"two", proof("two")}} {
			done, err := p.DeleteRecords(t.Context(), "example.com", proof(tc.value))
			if diff := cmp.Diff(tc.done, done); diff != "" || err != nil {
				t.Errorf("%s: %v (-want +got):\n%s", tc.value, err, diff)
			}
		}
		p.want(t, theirs, `"prefix-of-one"`)
		if n := len(p.server.Values("_acme-challenge.other.example.com")); n != 1 {
			t.Errorf("another name has %d records", n)
		}
	})
}

// The first record of a name and the last.
func TestAloneUnderItsName(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		if _, err := p.AppendRecords(t.Context(), "example.com", proof("one")); err != nil {
			t.Fatal(err)
		}
		p.want(t, `"one"`)
		if _, err := p.DeleteRecords(t.Context(), "example.com", proof("one")); err != nil {
			t.Fatal(err)
		}
		p.want(t)
	})
}

func TestZonesAreListed(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		all, err := p.ListZones(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, z := range all {
			names = append(names, strings.TrimSuffix(z.Name, "."))
		}
		for i := range 120 {
			if !slices.Contains(names, fmt.Sprintf("zone-%d.example", i)) {
				t.Fatalf("zone %d of %d is not in the list", i, len(names))
			}
		}
		if !slices.Contains(names, "example.com") || slices.Contains(names, "vpn.example.com") {
			t.Errorf("example.com is missing, or vpn.example.com is not, which is private")
		}
	})
}

// Several writers at once: a wildcard's proof and the name's own, or two programs.
func TestWritersAtOnce(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		const writers = 4
		errs := make(chan error)
		var want []string
		for i := range writers {
			want = append(want, fmt.Sprintf(`"value-%d"`, i))
			go func() {
				_, err := p.AppendRecords(t.Context(), "example.com", proof(fmt.Sprint("value-", i)))
				errs <- err
			}()
		}
		for range writers {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		p.want(t, want...)
	})
}

func TestTroublePasses(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		limit := func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusTooManyRequests)
			fmt.Fprint(w, `{"success": false, "errors": [{"code": 10000, "message": "Rate limit"}]}`)
		}
		if strings.Contains(t.Name(), "route53") {
			limit = dnsapi.Amazon(400, "Throttling", "Rate exceeded")
		}
		for _, trouble := range [][]http.HandlerFunc{
			{limit, limit, limit},
			{dnsapi.Say(503, "upstream connect error"), dnsapi.Say(502, "")},
			{dnsapi.Hang, limit},
			{nil, nil},
		} {
			p.fail(0, trouble...)
			if _, err := p.AppendRecords(t.Context(), "example.com", proof("one")); err != nil {
				t.Fatal(err)
			}
			p.want(t, `"one"`)
			p.fail(0, trouble...)
			if _, err := p.DeleteRecords(t.Context(), "example.com", proof("one")); err != nil {
				t.Fatal(err)
			}
			p.want(t)
		}
	})
}

// An answer is lost although the request was served: the same request meets what it did when it comes again.
func TestLostAnswer(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		for after := range 4 {
			p.fail(after, nil)
			if _, err := p.AppendRecords(t.Context(), "example.com", proof("one")); err != nil {
				t.Fatal(err)
			}
			p.want(t, `"one"`)
			p.fail(after, nil)
			if _, err := p.DeleteRecords(t.Context(), "example.com", proof("one")); err != nil {
				t.Fatal(err)
			}
			p.want(t)
		}
	})
}

func TestErrorsSayWhatToDo(t *testing.T) {
	alone(t)
	forever := func(by http.HandlerFunc) []http.HandlerFunc { return slices.Repeat([]http.HandlerFunc{by}, 20) }
	for _, tc := range []struct {
		name  string
		place func(*testing.T) place
		zone  string
		fail  []http.HandlerFunc
		words []string
	}{
		{"wrong token", func(t *testing.T) place { return cloudflare(t, "v1-wrong-token-1234567") }, "example.com", nil, []string{"403 Forbidden", "Invalid access token (9109)", "check tls.acme.dns.token", "Zone:Read", "DNS:Edit"}},
		{"no token at all", func(t *testing.T) place { return cloudflare(t, "x") }, "example.com", nil, []string{"400", "Invalid format for Authorization header (6111)", "check tls.acme.dns.token"}},
		{"no such zone at Cloudflare", nil, "none.example", nil, []string{"shows no zone none.example to this token"}},
		{"a zone that is not delegated", nil, "pending.example", nil, []string{"pending.example", "is pending", "registrar"}},
		{"Cloudflare's limit", nil, "example.com", forever(dnsapi.Say(429, `{"success": false, "errors": [{"code": 971, "message": "Please wait"}]}`)), []string{"429", "Please wait (971)", "too many requests"}},
		{"Cloudflare is silent", nil, "example.com", forever(dnsapi.Hang), []string{"deadline exceeded"}},
		{"a captive portal", nil, "example.com", forever(dnsapi.Say(200, "<html>Welcome to the hotel")), []string{"not what the API sends", "Welcome to the hotel", "proxy"}},
		{"half an answer", nil, "example.com", forever(dnsapi.Say(200, `{"success": true, "result": 7}`)), []string{"example.com", "result"}},
		{"an error without text", nil, "example.com", forever(dnsapi.Say(418, `{}`)), []string{"418"}},
		{"too many pages", nil, "example.com", forever(dnsapi.Say(200, `{"success": true, "result": [], "result_info": {"total_pages": 1000000000}}`)), []string{"shows no zone"}},

		{"unknown key", func(t *testing.T) place { return route53(t, "AKIAWRONG", secret) }, "example.com", nil, []string{"InvalidClientTokenId", "check the access key"}},
		{"wrong secret", func(t *testing.T) place { return route53(t, keyID, "hunter2hunter2") }, "example.com", nil, []string{"SignatureDoesNotMatch", "check the secret access key"}},
		{"no credentials", func(t *testing.T) place { return route53(t, "", "") }, "example.com", nil, []string{"no credentials", "tls.acme.dns.access_key_id", "AWS_ACCESS_KEY_ID", "role"}},
		{"no rights", func(t *testing.T) place { return route53(t, keyID, secret) }, "example.com",
			forever(dnsapi.Amazon(403, "AccessDenied", "User: arn:aws:iam::1:user/u is not authorized to perform: route53:ListHostedZonesByName")),
			[]string{"AccessDenied", "route53:ListHostedZonesByName", "docs/tls.md"}},
		{"no such zone", func(t *testing.T) place { return route53(t, keyID, secret) }, "none.example", nil, []string{"no public hosted zone none.example"}},
		{"only a private zone", func(t *testing.T) place { return route53(t, keyID, secret) }, "vpn.example.com", nil, []string{"no public hosted zone vpn.example.com"}},
		{"two zones", func(t *testing.T) place { return route53(t, keyID, secret) }, "twice.example", nil, []string{"2 public hosted zones", "Z1TWICE", "Z2TWICE"}},
		{"Amazon's limit", func(t *testing.T) place { return route53(t, keyID, secret) }, "example.com", forever(dnsapi.Amazon(400, "Throttling", "Rate exceeded")), []string{"Rate exceeded (Throttling)", "tries again later"}},
		{"Amazon is silent", func(t *testing.T) place { return route53(t, keyID, secret) }, "example.com", forever(dnsapi.Hang), []string{"Route 53", "exceeded"}},
		{"garbage", func(t *testing.T) place { return route53(t, keyID, secret) }, "example.com", forever(dnsapi.Say(200, "Welcome to the hotel")), []string{"Route 53"}},
		{"garbage with an error", func(t *testing.T) place { return route53(t, keyID, secret) }, "example.com", forever(dnsapi.Say(403, "Welcome to the hotel")), []string{"Route 53", "403 Forbidden", "proxy"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if tc.place == nil {
					tc.place = func(t *testing.T) place { return cloudflare(t, token) }
				}
				p := tc.place(t)
				p.fail(0, tc.fail...)
				// As long as a certificate may take, and then some.
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				_, err := p.AppendRecords(ctx, tc.zone, proof("one"))
				if err == nil || ctx.Err() != nil {
					t.Fatalf("error %v, context %v", err, ctx.Err())
				}
				for _, w := range tc.words {
					if !strings.Contains(err.Error(), w) {
						t.Errorf("%q does not name %q", err, w)
					}
				}
				for _, s := range []string{token, secret, "hunter2", "v1-wrong"} {
					if strings.Contains(err.Error(), s) {
						t.Errorf("a secret is in %q", err)
					}
				}
			})
		})
	}
}

// What Amazon has is somebody else's, if it is not as heddle makes it.
func TestOddSets(t *testing.T) {
	alone(t)
	synctest.Test(t, func(t *testing.T) {
		p := route53(t, keyID, secret)
		p.fail(1, func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `<ListResourceRecordSetsResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><ResourceRecordSets><ResourceRecordSet>
				<Name>%s.</Name><Type>TXT</Type><SetIdentifier>a</SetIdentifier><Weight>1</Weight><TTL>60</TTL><ResourceRecords><ResourceRecord><Value>"x"</Value></ResourceRecord></ResourceRecords>
				</ResourceRecordSet></ResourceRecordSets><IsTruncated>false</IsTruncated><MaxItems>1</MaxItems></ListResourceRecordSetsResponse>`, name)
		})
		if _, err := p.AppendRecords(t.Context(), "example.com", proof("one")); err == nil || !strings.Contains(err.Error(), "routing policy") {
			t.Errorf("error %v", err)
		}
	})
}

// A change that never gets to all name servers is waited for, but not for ever, nor after the caller has left.
func TestSlowSpread(t *testing.T) {
	alone(t)
	synctest.Test(t, func(t *testing.T) {
		p := route53(t, keyID, secret)
		p.server.(*dnsapi.Route53).Lag = 1 << 20
		start := time.Now()
		if _, err := p.AppendRecords(t.Context(), "example.com", proof("one")); err != nil || time.Since(start) > 3*time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if _, err := p.AppendRecords(ctx, "example.com", proof("two")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the caller left: %v", err)
		}
	})
}

func TestOnlyProofsAreWritten(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		for _, r := range []libdns.Record{
			libdns.RR{Name: "x", Type: "A", Data: "192.0.2.1"},
			libdns.TXT{Name: "x", Text: `quo"te`}, libdns.TXT{Name: "x", Text: ""}, libdns.TXT{Name: "x", Text: strings.Repeat("x", 256)},
		} {
			if _, err := p.AppendRecords(t.Context(), "example.com", []libdns.Record{r}); err == nil {
				t.Errorf("%v is written", r)
			}
		}
	})
}

func TestNameServersOfCloudflare(t *testing.T) {
	p := cloudflare(t, token).provider.(*zones.Cloudflare)
	want := []string{"ada.ns.cloudflare.com:53", "bob.ns.cloudflare.com:53"}
	if diff := cmp.Diff(want, p.NameServers(t.Context(), "example.com")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := p.NameServers(t.Context(), "none.example"); got != nil {
		t.Errorf("those of no zone: %q", got)
	}
}

// Whatever comes back, there is an end to it and no crash.
func FuzzAnswers(f *testing.F) {
	f.Add(200, `{"success": true, "result": [{"id": "1", "name": "example.com", "status": "active"}], "result_info": {"total_pages": 2}}`)
	f.Add(403, `{"success": false, "errors": [{"code": 9109, "message": "no", "error_chain": [{"code": 1}]}]}`)
	f.Add(200, `<ListHostedZonesByNameResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><HostedZones><HostedZone><Id>/hostedzone/Z</Id><Name>example.com.</Name></HostedZone></HostedZones><IsTruncated>true</IsTruncated></ListHostedZonesByNameResponse>`)
	f.Add(200, `{"success": true, "result": null, "errors": [null]}`)
	f.Fuzz(func(t *testing.T, status int, body string) {
		alone(t)
		answer := dnsapi.Client(dnsapi.Say(200+(status&1023)%400, body))
		synctest.Test(t, func(t *testing.T) {
			amazon, err := zones.NewRoute53(t.Context(), zones.Route53Options{AccessKeyID: keyID, SecretAccessKey: secret, Client: answer})
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range []provider{zones.NewCloudflare(token, "", answer), amazon} {
				p.ListZones(t.Context())
				p.AppendRecords(t.Context(), "example.com", proof("one"))
				p.DeleteRecords(t.Context(), "example.com", proof("one"))
			}
		})
	})
}
