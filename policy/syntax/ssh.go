package syntax

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
	check                      []string
}

func (p *parser) sshRules(v *hujson.Value) {
	kept := 0
	p.entries(v, "ssh", func(v *hujson.Value) {
		kept = len(p.d.SSH)
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
	}, func() { p.d.SSH = p.d.SSH[:kept] })
}

func (p *parser) sshRule(v *hujson.Value, t sshText) {
	r := SSHRule{Enforce: t.enforce}
	r.Line, _ = p.place(v.StartOffset)
	switch a := strings.TrimSpace(t.action.s); {
	case a == "accept":
	case a == "check":
		r.Check = true
		p.feature(FeatureSSHCheck, t.action.off)
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
		r.AcceptEnv = append(r.AcceptEnv, e.s)
	}
	r.Recorder, _ = p.selectors("recorder", t.rec, tagsOnly)
	if len(t.rec) > 0 {
		p.feature(FeatureSSHRecorder, t.rec[0].off)
	}
	if t.enforce && len(t.rec) == 0 {
		p.fail(v.StartOffset, "enforceRecorder needs a recorder")
	}
	r.Src, _ = p.selectors("src", t.src, sshSources)
	r.Postures = t.check
	p.sshTargets(&r, t)
	p.d.SSH = append(p.d.SSH, r)
}

func (p *parser) sshPeriod(r *SSHRule, t sshText) {
	r.Period = defaultCheckPeriod
	if !t.hasPeriod {
		return
	}
	s := strings.TrimSpace(t.period.s)
	if s == "always" {
		r.Period = 0
		return
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		p.fail(t.period.off, "checkPeriod: %v", err)
	case d < 0 || d > maxCheckPeriod:
		p.fail(t.period.off, "checkPeriod: %v is not between 0 and %v", d, maxCheckPeriod)
	}
	r.Period = d
}

func (p *parser) sshUsers(v *hujson.Value, r *SSHRule, users []text) {
	r.Logins = map[string]string{"root": ""}
	if len(users) == 0 {
		p.fail(v.StartOffset, "users must be specified")
	}
	for _, u := range users {
		login := strings.TrimSpace(u.s)
		domain, isLocalpart := strings.CutPrefix(login, "localpart:*@")
		switch {
		case login == "" || login == "*":
			p.fail(u.off, "user %q is not valid; use \"autogroup:nonroot\" for all but root", u.s)
		case isLocalpart && domain == "":
			p.fail(u.off, "user %q: the domain is missing", u.s)
		case isLocalpart:
			r.Localparts = append(r.Localparts, domain)
			p.deferCheck(u.off, domain, "")
		case login == "autogroup:nonroot":
			r.Logins["*"] = "="
		default:
			r.Logins[login] = login
		}
	}
}

// sshTargets reads dst. A user as the destination is that user's own devices,
// so the source must be the same user; nothing tagged may enter them.
func (p *parser) sshTargets(r *SSHRule, t sshText) {
	for _, d := range t.dst {
		tm, err := p.selector(d, sshTargets)
		switch {
		case err != nil:
			p.fail(d.off, "dst: %v; ssh rules go to tags, autogroup:self or the source user", err)
		case tm.Kind == Self:
			r.Self = true
			p.usersOnly(t.src, "autogroup:self can only be used with users, groups, or supported autogroups")
		case tm.Kind == User:
			for _, s := range t.src {
				if strings.TrimSpace(s.s) != tm.Name {
					p.fail(s.off, "src=%q: the destination %q is a user, so the source must be the same user", s.s, tm.Name)
				}
			}
			if r.DstUser != "" && r.DstUser != tm.Name {
				p.fail(d.off, "dst: only one user can be a destination")
			}
			r.DstUser = tm.Name
		default:
			r.Dst = append(r.Dst, tm)
		}
	}
}

func (p *parser) usersOnly(src []text, msg string) {
	for _, s := range src {
		if tm, err := p.d.Lookup(strings.TrimSpace(s.s)); err == nil && tm.Kind&(Tag|Tagged) != 0 {
			p.fail(s.off, "src=%q: %s", s.s, msg)
		}
	}
}
