package policy

import (
	"strings"
	"time"

	"github.com/tailscale/hujson"
)

var sshFields = newSchema("ssh rule", "action", "src", "dst", "users", "checkPeriod", "acceptEnv", "recorder", "enforceRecorder", "srcPosture")

// maxCheckPeriod is what the hosted service allows, and the default is its too.
const (
	maxCheckPeriod     = 168 * time.Hour
	defaultCheckPeriod = 12 * time.Hour
)

// sshText is one ssh rule as written.
type sshText struct {
	action, period             text
	src, dst, users, env, rec  []text
	hasPeriod, hasSrc, enforce bool
	check                      int32
}

func (p *parser) sshRules(v *hujson.Value) {
	p.elements(v, "ssh", func(v *hujson.Value) {
		var t sshText
		p.fields(v, sshFields, func(name string, v *hujson.Value) {
			switch name {
			case "action":
				t.action, _ = p.str(v, "action")
			case "src":
				t.src = p.strs(v, "src")
			case "dst":
				t.dst = p.strs(v, "dst")
			case "users":
				t.users = p.strs(v, "users")
			case "checkPeriod":
				if !isNull(v) {
					t.period, t.hasPeriod = p.str(v, "checkPeriod")
				}
			case "acceptEnv":
				t.env = p.strs(v, "acceptEnv")
			case "recorder":
				if v.Value.Kind() == '"' {
					one, _ := p.str(v, "recorder")
					t.rec = []text{one}
				} else {
					t.rec = p.strs(v, "recorder")
				}
			case "enforceRecorder":
				t.enforce = p.boolean(v, "enforceRecorder")
			case "srcPosture":
				t.check = p.check("srcPosture", v)
			}
		})
		p.sshRule(v, t)
	})
}

func (p *parser) sshRule(v *hujson.Value, t sshText) {
	r := sshRule{enforce: t.enforce}
	r.line, _ = p.place(v.StartOffset)
	switch a := strings.TrimSpace(t.action.s); {
	case a == "accept":
	case a == "check":
		r.check = true
	case t.action.off == 0:
		p.fail(v.StartOffset, `an ssh rule needs an action, "accept" or "check"`)
	default:
		p.fail(t.action.off, `%q is not a valid action; there are "accept" and "check"`, a)
	}
	p.sshPeriod(&r, t)
	p.sshUsers(v, &r, t.users)
	for _, e := range t.env {
		if e.s == "" {
			p.fail(e.off, "acceptEnv: an empty string is not valid")
		}
		r.acceptEnv = append(r.acceptEnv, e.s)
	}
	rec, _ := p.terms("recorder", t.rec, tagsOnly)
	r.recorder = p.d.set(rec, 0, nil)
	if t.enforce && len(t.rec) == 0 {
		p.fail(v.StartOffset, "enforceRecorder needs a recorder")
	}
	src, _ := p.terms("src", t.src, sshSources)
	r.src = p.d.set(src, t.check, nil)
	p.sshTargets(&r, t)
	p.d.ssh = append(p.d.ssh, r)
}

func (p *parser) sshPeriod(r *sshRule, t sshText) {
	r.period = defaultCheckPeriod
	if !t.hasPeriod {
		return
	}
	s := strings.TrimSpace(t.period.s)
	if s == "always" {
		r.period = 0
		return
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		p.fail(t.period.off, "checkPeriod: %v", err)
	case d < 0 || d > maxCheckPeriod:
		p.fail(t.period.off, "checkPeriod: %v is not between 0 and %v", d, maxCheckPeriod)
	}
	r.period = d
}

func (p *parser) sshUsers(v *hujson.Value, r *sshRule, users []text) {
	r.logins = map[string]string{"root": ""}
	if len(users) == 0 {
		p.fail(v.StartOffset, "users must be specified")
	}
	for _, u := range users {
		login := strings.TrimSpace(u.s)
		domain, isLocalpart := strings.CutPrefix(login, "localpart:*@")
		switch {
		case login == "" || login == "*":
			p.fail(u.off, "user %q is not valid; use \"autogroup:nonroot\" for all but root", u.s)
		case isLocalpart:
			r.localparts = append(r.localparts, domain)
			p.deferCheck(u.off, domain, "")
		case login == "autogroup:nonroot":
			r.logins["*"] = "="
		default:
			r.logins[login] = login
		}
	}
}

// sshTargets reads dst. A user as the destination is that user's own devices,
// so the source must be the same user; nothing tagged may enter them.
func (p *parser) sshTargets(r *sshRule, t sshText) {
	var terms []int32
	for _, d := range t.dst {
		tm, err := p.selector(d, sshTargets)
		switch {
		case err != nil:
			p.fail(d.off, "dst: %v; ssh rules go to tags, autogroup:self or the source user", err)
		case tm.kind == kSelf:
			r.self = true
			p.usersOnly(t.src, "autogroup:self can only be used with users, groups, or supported autogroups")
		case tm.kind == kUser:
			for _, s := range t.src {
				if strings.TrimSpace(s.s) != tm.name {
					p.fail(s.off, "src=%q: the destination %q is a user, so the source must be the same user", s.s, tm.name)
				}
			}
			if r.dstUser != "" && r.dstUser != tm.name {
				p.fail(d.off, "dst: only one user can be a destination")
			}
			r.dstUser = tm.name
		default:
			terms = append(terms, p.d.term(tm))
		}
	}
	r.dst = p.d.set(terms, 0, nil)
}

func (p *parser) usersOnly(src []text, msg string) {
	for _, s := range src {
		if tm, err := p.d.lookup(strings.TrimSpace(s.s)); err == nil && tm.kind&(kTag|kTagged) != 0 {
			p.fail(s.off, "src=%q: %s", s.s, msg)
		}
	}
}
