package login_test

import (
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"heddle/control/login"
	"heddle/control/oidc"
	"heddle/control/tailnet"

	"github.com/go-chi/chi/v5"
	"tailscale.com/tailcfg"
)

// says fails the test unless a page has a status and each of the texts.
func (v view) says(t *testing.T, status int, texts ...string) {
	t.Helper()
	if v.Status != status {
		t.Errorf("%s: status %d, want %d", v.URL, v.Status, status)
	}
	for _, text := range texts {
		if !strings.Contains(v.Text, text) && !strings.Contains(html.UnescapeString(v.Text), text) {
			t.Errorf("%s lacks %q:\n%s", v.URL, text, body(v.Text))
		}
	}
	if csp := v.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "frame-ancestors 'none'") || strings.Contains(csp, "unsafe") {
		t.Errorf("%s: policy %q", v.URL, csp)
	}
	if v.Header.Get("Cache-Control") != "no-store" || v.Header.Get("X-Content-Type-Options") != "nosniff" || v.Header.Get("Referrer-Policy") != "same-origin" {
		t.Errorf("%s: %v", v.URL, v.Header)
	}
}

func body(page string) string {
	_, main, _ := strings.Cut(page, "<main>")
	return main
}

func TestLogin(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		c, path := w.device("<b>laptop</b>")
		answer := make(chan *tailcfg.RegisterResponse, 1)
		go func() {
			resp, err := c.Register(t.Context(), func(r *tailcfg.RegisterRequest) { r.Followup = server + path })
			if err != nil {
				t.Error(err)
			}
			answer <- resp
		}()
		synctest.Wait()
		time.Sleep(3 * time.Minute)
		b := w.browser()
		v := b.get(path)
		v.says(t, 200, "&lt;b&gt;laptop&lt;/b&gt;", "Linux", "198.51.100.7", c.Machine.Public().ShortString(), "3 minutes ago",
			"Log in with Example", path+"/with/example\"", "heddle auth register --user USER "+path[len("/register/"):])
		if v.consent() != nil || strings.Contains(v.Header.Get("Content-Security-Policy"), "form-action 'self'") {
			t.Error("there is a form for whoever comes by")
		}

		v = b.get(path + "/with/example")
		if v.URL.Path != path {
			t.Errorf("the login ends at %s", v.URL)
		}
		v.says(t, 200, "You are logged in as <strong>Anna</strong> (anna@example.com) through Example", "&lt;b&gt;laptop", "Add device as anna@example.com", "Use another account")
		if !strings.Contains(v.Header.Get("Content-Security-Policy"), "form-action 'self'") {
			t.Error("the form cannot be sent")
		}
		if u := w.user("anna"); u == nil || u.Email != "anna@example.com" {
			t.Fatalf("the user is %+v", u)
		}
		if n := w.State.Snapshot().NumNodes(); n != 0 {
			t.Fatal("the device joined before anybody consented")
		}

		v = b.post(path, v.consent())
		v.says(t, 200, "has joined the network as yours")
		if resp := <-answer; resp == nil || !resp.MachineAuthorized || resp.Login.LoginName != "anna@example.com" {
			t.Errorf("the device was told %+v", resp)
		}
		n := w.State.Snapshot().Node(1)
		if n.Owner != w.user("anna").ID || n.Origin.Method != tailnet.ByOIDC {
			t.Errorf("%+v", n)
		}

		// Whatever is loaded again shows the same.
		for _, again := range b.went {
			if strings.HasPrefix(again, issuer) || strings.Contains(again, "/with/") {
				continue
			}
			b.get(again).says(t, 200, "has joined the network as yours")
		}
		// Others learn no more than that.
		v = w.browser().get(path)
		v.says(t, 200, "has joined the network")
		if strings.Contains(strings.ToLower(v.Text), "anna") || strings.Contains(v.Text, "as yours") {
			t.Error("others learn whose device it is")
		}
	})
}

// TestCookie is what no page can be without: what browsers do with the cookie.
func TestCookie(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		_, path := w.device("laptop")
		for _, tt := range []struct{ server, name string }{
			{"https://heddle.test", "__Host-heddle-session"},
			{"http://heddle.test", "heddle-session"},
		} {
			u := must(url.Parse(tt.server))
			secure := u.Scheme == "https"
			r := chi.NewRouter()
			login.New(login.Options{
				State: w.State, Devices: w.Control, Connections: w.Control, ServerURL: u,
				Providers: oidc.New(oidc.Options{
					Providers: []oidc.Config{{Name: "example", Issuer: issuer, ClientID: "heddle", ClientSecret: "s3cret"}},
					Redirect:  u.JoinPath(login.CallbackPath), Transport: hosts{"idp.test": w.idp},
				}),
			}).Routes(r)
			jar := w.browser()
			jar.Transport = hosts{"heddle.test": r, "idp.test": w.idp}
			var set *http.Cookie
			jar.CheckRedirect = func(r *http.Request, via []*http.Request) error {
				for _, c := range r.Response.Cookies() {
					if strings.Contains(c.Name, "session") {
						set = c
					}
				}
				return nil
			}
			jar.get(tt.server+path+"/with/example").says(t, 200, "You are logged in as")
			if set == nil || set.Name != tt.name || !set.HttpOnly || set.Secure != secure || set.Path != "/" || set.Domain != "" ||
				set.SameSite != http.SameSiteLaxMode || set.MaxAge != 3600 || len(set.Value) < 26 {
				t.Errorf("%s: %+v", tt.server, set)
			}
		}
	})
}

// TestForgedConsent: a device joins only if its person has seen which one, in that browser.
func TestForgedConsent(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		_, path := w.device("laptop")
		_, other := w.device("other")
		b := w.browser()
		form := w.logIn(b, path, "anna").consent()
		otherForm := b.get(other).consent()
		twin := w.browser()
		twinForm := w.logIn(twin, path, "anna").consent()
		if form == nil || otherForm == nil || twinForm == nil || form.Get("consent") == twinForm.Get("consent") {
			t.Fatal(form, otherForm, twinForm)
		}
		for name, try := range map[string]func() view{
			"another site":         func() view { return b.post(path, form, "Origin", "https://evil.test") },
			"another site (fetch)": func() view { return b.post(path, form, "Origin", "https://evil.test", "Sec-Fetch-Site", "cross-site") },
			"another host of ours": func() view {
				return b.post(path, form, "Origin", "http://www.heddle.test", "Sec-Fetch-Site", "same-site")
			},
			"no origin":          func() view { return b.post(path, form, "Origin", "null") },
			"no consent":         func() view { return b.post(path, nil) },
			"wrong consent":      func() view { return b.post(path, url.Values{"consent": {"x"}}) },
			"for another device": func() view { return b.post(path, otherForm) },
			"of another session": func() view { return b.post(path, twinForm) },
			"no session":         func() view { return w.browser().post(path, form) },
			"as a link":          func() view { return b.do(request("GET", path+"/nothing?consent="+form.Get("consent"), "")) },
			"much too long": func() view {
				return b.post(path, url.Values{"x": {strings.Repeat("x", 10<<10)}, "consent": form["consent"]})
			},
		} {
			v := try()
			if v.Status != http.StatusForbidden && name != "as a link" {
				t.Errorf("%s: %d", name, v.Status)
			}
			if n := w.State.Snapshot().NumNodes(); n != 0 {
				t.Fatalf("%s: the device joined", name)
			}
		}
		b.post(path, form).says(t, 200, "has joined the network as yours")
	})
}

// TestForeignCallback: nobody is logged in as somebody else without knowing.
func TestForeignCallback(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		_, path := w.device("laptop")
		evil := w.browser()
		evil.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
			evil.went = append(evil.went, r.URL.String())
			if r.URL.Path == login.CallbackPath {
				return http.ErrUseLastResponse
			}
			return nil
		}
		w.idp.is("mallory")
		evil.get(path + "/with/example")
		callback := evil.went[len(evil.went)-1]
		if !strings.Contains(callback, login.CallbackPath) {
			t.Fatal(callback)
		}
		victim := w.browser()
		v := victim.get(callback)
		v.says(t, 403, "another browser", "Nothing was changed")
		if w.user("mallory") != nil || len(victim.jar.Cookies(must(url.Parse(server)))) != 0 {
			t.Error("the victim is logged in as the attacker")
		}
		victim.get(path).says(t, 200, "Log in with Example")

		// With a login of their own under way it is refused as well.
		victim.CheckRedirect = evil.CheckRedirect
		victim.get(path + "/with/example")
		victim.get(callback).says(t, 403, "another browser")

		for name, query := range map[string]string{
			"nothing": "", "no state": "?code=x", "made up": "?code=x&state=" + strings.Repeat("A", 26), "twice": "?code=x&code=y&state=z",
		} {
			if v := victim.get(login.CallbackPath + query); v.Status != 400 || !strings.Contains(v.Text, "tailscale up") {
				t.Errorf("%s: %d %s", name, v.Status, body(v.Text))
			}
		}
	})
}

// TestOtherSitesCannotBegin: their links lead to the page, which tells what is going on.
func TestOtherSitesCannotBegin(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		_, path := w.device("laptop")
		b := w.browser()
		for _, site := range []string{"cross-site", "same-site"} {
			if v := b.get(path+"/with/example", "Sec-Fetch-Site", site); v.URL.Path != path || v.consent() != nil {
				t.Errorf("%s: %s", site, v.URL)
			}
		}
		if len(w.idp.requests()) != 0 {
			t.Error("a login was begun")
		}
		for _, site := range []string{"same-origin", "none"} {
			if v := w.browser().get(path+"/with/example", "Sec-Fetch-Site", site); v.consent() == nil {
				t.Errorf("%s: %s", site, v.URL)
			}
		}
	})
}

// TestOpenRedirects: whatever an address says, browsers are sent to pages of ours and to the provider.
func TestOpenRedirects(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		_, path := w.device("laptop")
		for _, odd := range []string{
			"/register/%2f%2fevil.test/with/example", "//evil.test/with/example", "/register/..%2f..%2f%2fevil.test/with/example",
			"/register/https:%2f%2fevil.test/with/example", `/register/\evil.test/with/example`, "/ssh/%2f%2fevil.test/with/example",
			path + "/with/%2f%2fevil.test", path + "/with/example?then=//evil.test&redirect_uri=https://evil.test&next=https://evil.test",
			"/oidc/callback?then=//evil.test", "/register//evil.test/with/example", path + "//evil.test",
		} {
			for _, site := range []string{"same-origin", "cross-site"} {
				r := httptest.NewRequest("GET", "/", nil)
				r.URL = must(url.Parse(server + odd))
				r.Header.Set("Sec-Fetch-Site", site)
				rec := httptest.NewRecorder()
				w.Handler.ServeHTTP(rec, r)
				to := rec.Header().Get("Location")
				if to != "" && to != path && !strings.HasPrefix(to, issuer+"/authorize?") {
					t.Errorf("%s (%s) leads to %s", odd, site, to)
				}
				if u, err := url.Parse(to); err != nil || strings.Contains(to, "evil") && u.Query().Get("redirect_uri") != server+login.CallbackPath {
					t.Errorf("%s (%s) leads to %s", odd, site, to)
				}
			}
		}
	})
}

// TestSessionEnds: what ends a session ends it for good.
func TestSessionEnds(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(*testing.T, *world)
	}{
		{"time", func(t *testing.T, w *world) { time.Sleep(time.Hour) }},
		{"suspended", func(t *testing.T, w *world) {
			w.Update(func(tx *tailnet.Tx) error { return tx.SuspendUser(w.user("anna").ID) })
		}},
		{"suspended and restored", func(t *testing.T, w *world) {
			id := w.user("anna").ID
			w.Update(func(tx *tailnet.Tx) error { return tx.SuspendUser(id) })
			synctest.Wait()
			w.Update(func(tx *tailnet.Tx) error { return tx.RestoreUser(id) })
		}},
		{"deleted", func(t *testing.T, w *world) {
			w.Update(func(tx *tailnet.Tx) error { return tx.DeleteUser(w.user("anna").ID) })
		}},
		{"unlinked", func(t *testing.T, w *world) {
			u := w.user("anna")
			w.Update(func(tx *tailnet.Tx) error { return tx.UnlinkIdentity(u.ID, u.Identities[0]) })
		}},
		{"linked to another", func(t *testing.T, w *world) {
			u, other := w.user("anna"), w.User("other")
			w.Update(func(tx *tailnet.Tx) error {
				if err := tx.UnlinkIdentity(u.ID, u.Identities[0]); err != nil {
					return err
				}
				return tx.LinkIdentity(other, u.Identities[0])
			})
		}},
		{"restart", func(t *testing.T, w *world) { w.Restart() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, nil, func(t *testing.T, w *world) {
				_, path := w.device("laptop")
				b := w.browser()
				form := w.logIn(b, path, "anna").consent()
				b.get(path).says(t, 200, "You are logged in as")
				tt.end(t, w)
				b.Transport = hosts{"heddle.test": w.Handler, "idp.test": w.idp}
				if tt.name == "restart" {
					_, path = w.device("laptop")
				}
				b.get(path).says(t, 200, "Log in with Example")
				b.post(path, form).says(t, 403, "You are not logged in any more")
				if w.State.Snapshot().NumNodes() != 0 {
					t.Error("the device joined")
				}
			})
		})
	}
}

// TestSessionsAreBounded: a person's own logins push each other out, and nobody else's.
func TestSessionsAreBounded(t *testing.T) {
	inWorld(t, func(o *oidc.Options) { o.Limits.PerAddr = 1000 }, func(t *testing.T, w *world) {
		_, path := w.device("laptop")
		ben := w.browser()
		w.logIn(ben, path, "ben")
		first := w.browser()
		w.logIn(first, path, "anna")
		var last *browser
		for range 16 {
			last = w.browser()
			w.logIn(last, path, "anna")
		}
		first.get(path).says(t, 200, "Log in with Example")
		last.get(path).says(t, 200, "You are logged in as")
		ben.get(path).says(t, 200, "You are logged in as <strong>Ben")
	})
}

// TestAnotherAccount: the provider is asked to ask, as far as it can.
func TestAnotherAccount(t *testing.T) {
	for _, tt := range []struct {
		knows  []string
		prompt string
	}{
		{nil, "login"},
		{[]string{"none", "login", "consent"}, "login"},
		{[]string{"none", "login", "select_account"}, "select_account"},
	} {
		t.Run(tt.prompt, func(t *testing.T) {
			inWorld(t, nil, func(t *testing.T, w *world) {
				w.idp.knows = tt.knows
				_, path := w.device("laptop")
				b := w.browser()
				b.get(path + "/with/example")
				v := b.get(path + "?anew")
				v.says(t, 200, "Log in with Example", path+"/with/example?anew")
				w.idp.is("ben")
				v = b.get(path + "/with/example?anew")
				v.says(t, 200, "You are logged in as <strong>Ben")
				asked := w.idp.requests()
				if asked[0].Has("prompt") || asked[1].Get("prompt") != tt.prompt || asked[1].Has("max_age") {
					t.Errorf("the provider was asked %v, then %v", asked[0], asked[1])
				}
				b.post(path, v.consent()).says(t, 200, "as yours")
				if w.Node("laptop").Owner != w.user("ben").ID {
					t.Error("it is not Ben's")
				}
			})
		})
	}
}

// TestRefusals: each has a page that says why and what to do, and changes nothing.
func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*oidc.Options)
		before func(*world)
		path   string // after that of the device
		status int
		says   string
		back   bool
	}{
		{"domain", func(o *oidc.Options) { o.Providers[0].Allow.Domains = []string{"example.org"} }, nil, "/with/example", 403, "example.com is none of the domains", true},
		{"provider is down", nil, func(w *world) { w.idp.setDown(true) }, "/with/example", 503, "Example", true},
		{"no such provider", nil, nil, "/with/other", 404, "other", true},
		{"suspended", nil, func(w *world) {
			w.add(w.browser(), must2(w.device("before")), "anna")
			w.Update(func(tx *tailnet.Tx) error { return tx.SetRole(w.user("anna").ID, "member") })
			w.Update(func(tx *tailnet.Tx) error { return tx.SuspendUser(w.user("anna").ID) })
		}, "/with/example", 403, "suspended", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, tt.change, func(t *testing.T, w *world) {
				_, path := w.device("laptop")
				if tt.before != nil {
					tt.before(w)
				}
				nodes := w.State.Snapshot().NumNodes()
				b := w.browser()
				v := b.get(path + tt.path)
				v.says(t, tt.status, tt.says, "Nothing was changed")
				if tt.back && !strings.Contains(v.Text, `href="`+path+`?anew"`) {
					t.Errorf("no way back:\n%s", body(v.Text))
				}
				b.get(path).says(t, 200, "Log in with Example", "heddle auth register --user USER")
				if w.State.Snapshot().NumNodes() != nodes {
					t.Error("a device joined")
				}
			})
		})
	}
}

func must2[T, U any](_ T, u U) U { return u }

// TestProviderGoesDown: who is logged in stays so, and admins can let devices join.
func TestProviderGoesDown(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		w.idp.setDown(true)
		_, path := w.device("laptop")
		b := w.browser()
		b.get(path+"/with/example").says(t, 503, "Nothing was changed")
		b.get(path).says(t, 200, "did not answer the last time", "Log in with Example")
		w.idp.setDown(false)
		time.Sleep(time.Minute)
		v := w.logIn(b, path, "anna")
		w.idp.setDown(true)
		time.Sleep(59 * time.Minute)
		b.post(path, v.consent()).says(t, 200, "has joined the network as yours")

		_, path = w.device("phone")
		if _, err := w.Control.CompleteLogin(t.Context(), tailnet.Actor{Kind: tailnet.LocalCLI}, path[len("/register/"):], w.user("anna").ID, tailnet.ByCLI); err != nil {
			t.Error(err)
		}
		b.get(path).says(t, 200, "has joined")
	})
}

func TestTags(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		p := must(tailnet.PreparePolicy(w.State.Snapshot(), `{"tagOwners": {"tag:web": ["anna@example.com"]}, "grants": []}`))
		w.Update(func(tx *tailnet.Tx) error { return tx.SetPolicy(p, "") })
		w.add(w.browser(), must2(w.device("first")), "owner")
		c := w.Client("www")
		c.Hostinfo.RequestTags = []string{"tag:web"}
		path := w.ask(c)
		ben := w.browser()
		v := w.logIn(ben, path, "ben")
		v.says(t, 200, "tag:web")
		ben.post(path, v.consent()).says(t, 403, "tag:web", "tagOwners", "Nothing was changed")
		if w.State.Snapshot().NodeByName("www") != nil {
			t.Fatal("it joined")
		}
		w.add(w.browser(), path, "anna").says(t, 200, "has joined the network.")
		if n := w.Node("www"); !n.Tagged() || n.Owner != 0 {
			t.Errorf("%+v", n)
		}
	})
}

// TestApproval: the page says who else has to agree.
func TestApproval(t *testing.T) {
	for _, tt := range []struct {
		name      string
		admission tailnet.Admission
		says      string
	}{
		{"device", tailnet.Admission{DeviceApproval: true}, "approve the device"},
		{"user", tailnet.Admission{UserApproval: true}, "approve you"},
		{"both", tailnet.Admission{UserApproval: true, DeviceApproval: true}, "approve you"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, nil, func(t *testing.T, w *world) {
				w.add(w.browser(), must2(w.device("first")), "owner")
				w.Update(func(tx *tailnet.Tx) error { return tx.SetAdmission(tt.admission) })
				_, path := w.device("laptop")
				b := w.browser()
				w.add(b, path, "anna").says(t, 200, "Almost there", "laptop", tt.says)
				w.Update(func(tx *tailnet.Tx) error {
					if tt.admission.UserApproval {
						if err := tx.ApproveUser(w.user("anna").ID); err != nil {
							return err
						}
					}
					if tt.admission.DeviceApproval {
						return tx.ApproveNode(w.Node("laptop").ID)
					}
					return nil
				})
				b.get(path).says(t, 200, "has joined the network as yours")
			})
		})
	}
}

// TestSameOwner: logging in again keeps the node; somebody else gets a new one, and the old is logged out.
func TestSameOwner(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		c, path := w.device("laptop")
		b := w.browser()
		w.add(b, path, "anna")
		before := w.Node("laptop")
		c.Renew()
		path = w.ask(c)
		v := b.get(path)
		v.says(t, 200, "yours already and logs in again")
		b.post(path, v.consent()).says(t, 200, "as yours")
		after := w.Node("laptop")
		if after.ID != before.ID || after.Addrs != before.Addrs || after.Key == before.Key {
			t.Errorf("before %+v, after %+v", before, after)
		}

		c.Renew()
		path = w.ask(c)
		v = w.logIn(b, path, "ben")
		v.says(t, 200, "logged in as somebody else now")
		b.post(path, v.consent()).says(t, 200, "as yours")
		if old := w.State.Snapshot().Node(before.ID); !old.Status.Expired || old.Owner != w.user("anna").ID {
			t.Errorf("the old login lives on: %+v", old)
		}
		if n := w.Node("laptop-1"); n.Owner != w.user("ben").ID {
			t.Errorf("%+v", n)
		}
	})
}

// TestExpiredLogin: an old page says what to do.
func TestExpiredLogin(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		_, path := w.device("laptop")
		time.Sleep(8 * 24 * time.Hour)
		for _, p := range []string{path, path + "/with/example", "/register/never", "/register/never/with/example", "/ssh/never", "/ssh/never/with/example"} {
			w.browser().get(p).says(t, 404, "This link is not valid")
		}
		w.browser().post(path, nil).says(t, 404, "tailscale up")
		w.browser().post("/ssh/never", nil).says(t, 404, "tailscale ssh")
	})
}

// TestRejectedDevice: an admin said no, and nobody else can say yes.
func TestRejectedDevice(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		_, path := w.device("laptop")
		b := w.browser()
		form := w.logIn(b, path, "anna").consent()
		if err := w.Control.RejectLogin(t.Context(), tailnet.Actor{Kind: tailnet.LocalCLI}, path[len("/register/"):]); err != nil {
			t.Fatal(err)
		}
		if v := b.get(path + "/status"); !strings.Contains(v.Text, "rejected") {
			t.Errorf("status %s", v.Text)
		}
		b.get(path).says(t, 200, "Device turned away", "laptop")
		b.post(path, form).says(t, 200, "Device turned away")
		b.get(path+"/with/example").says(t, 404, "This link is not valid")
		if w.State.Snapshot().NumNodes() != 0 {
			t.Error("the device joined")
		}
	})
}

// TestCallbackAgain: extensions fetch the callback before the browser does, and keep what it sets to themselves.
func TestCallbackAgain(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		_, path := w.device("laptop")
		b := w.browser()
		w.logIn(b, path, "anna")
		callback := b.went[len(b.went)-2]
		u := must(url.Parse(server))
		again := func() view {
			t.Helper()
			b.jar.SetCookies(u, []*http.Cookie{{Name: "heddle-session", Value: "", Path: "/", MaxAge: -1}})
			if len(b.jar.Cookies(u)) != 1 {
				t.Fatalf("cookies %v", b.jar.Cookies(u))
			}
			return b.get(callback)
		}
		v := again()
		v.says(t, 200, "You are logged in as <strong>Anna")
		if n := len(w.idp.requests()); n != 1 {
			t.Errorf("the provider was asked %d times", n)
		}
		w.Update(func(tx *tailnet.Tx) error { return tx.SuspendUser(w.user("anna").ID) })
		again().says(t, 403, "is suspended here")
		w.browser().get(callback).says(t, 403, "another browser")
		w.Update(func(tx *tailnet.Tx) error { return tx.RestoreUser(w.user("anna").ID) })
		time.Sleep(6 * time.Minute)
		again().says(t, 400, "begin anew")
	})
}
