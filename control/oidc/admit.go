package oidc

import (
	"cmp"
	"log/slog"
	"slices"
	"strings"

	"heddle/control/tailnet"
)

// lacks reports whether the ID token leaves something open that the userinfo endpoint may tell.
// A missing picture alone is not worth a request.
func (p *provider) lacks(c claims) bool {
	s := sources{c}
	missing := func(path string) bool { _, ok := s.at(path); return path != "" && !ok }
	return missing("email") || missing("email_verified") && !p.AllowUnverifiedEmail || missing("name") ||
		missing(p.Claims.Groups) || missing(p.Claims.Role)
}

// profile returns what the claims say of a person who may join. Otherwise the error is Denied.
func (p *provider) profile(s sources, log *slog.Logger) (tailnet.Profile, error) {
	email, verified := s.email()
	out := tailnet.Profile{
		Identity:    tailnet.Identity{Issuer: p.Issuer, Subject: s[0].raw("sub")},
		Provider:    p.Name,
		Email:       email,
		Name:        s.line(maxName, "preferred_username", "nickname"),
		DisplayName: s.line(maxName, "name"),
		PictureURL:  s.picture(),
	}
	log = log.With("provider", p.Name, "subject", out.Identity.Subject)
	if p.Claims.Groups != "" {
		v, told := s.at(p.Claims.Groups)
		groups, left := groupsOf(v)
		if !told && s.elsewhere(p.Claims.Groups) {
			log.Warn("the provider keeps the groups of a person elsewhere, probably because there are too many; they stay as they are", "claim", p.Claims.Groups)
			groups = nil
		}
		if left || len(groups) > maxGroups {
			log.Warn("some groups of a person are left out: there are too many, or their names cannot be used", "claim", p.Claims.Groups, "groups", len(groups))
		}
		if err := p.admit(email, verified, groups); err != nil {
			return tailnet.Profile{}, err
		}
		out.Groups = groups[:min(len(groups), maxGroups):min(len(groups), maxGroups)]
	} else if err := p.admit(email, verified, nil); err != nil {
		return tailnet.Profile{}, err
	}
	if p.Claims.Role != "" {
		v, _ := s.at(p.Claims.Role)
		role, unknown := roleOf(v)
		if unknown != "" {
			log.Warn("the provider gives a person a role that there is not, or that providers cannot give; the person is a member", "claim", p.Claims.Role, "role", oneLine(unknown, maxName))
		}
		out.Role = role
	}
	return out, nil
}

// admit checks whether the provider's rules let a person in. The error is Denied.
func (p *provider) admit(email string, verified bool, groups []string) error {
	deny := func(format string, args ...any) error { return tailnet.Errorf(tailnet.Denied, format, args...) }
	domain := email[strings.LastIndexByte(email, '@')+1:]
	sought := func(g string) bool { return slices.Contains(p.Allow.Groups, g) }
	const next = "ask your administrator, or use another account"
	switch {
	case email == "" && len(p.Allow.Domains)+len(p.Allow.Users) > 0:
		return deny("%s does not tell your e-mail address, by which it is decided who may join: add one to your account there, or ask your administrator", p.Label)
	case email != "" && !verified && !p.AllowUnverifiedEmail:
		return deny("%s does not say that %s is verified to be your e-mail address: verify it there and log in again, or ask your administrator", p.Label, email)
	case len(p.Allow.Domains) > 0 && !has(p.Allow.Domains, domain):
		return deny("%s may not join, as %s is none of the domains that may: %s", email, domain, next)
	case len(p.Allow.Users) > 0 && !has(p.Allow.Users, email):
		return deny("%s may not join, as it is not on the list of those who may: %s", email, next)
	case len(p.Allow.Groups) > 0 && !slices.ContainsFunc(groups, sought):
		return deny("%s may not join, as %s does not count you to any of the groups that may: %s", cmp.Or(email, "this account"), p.Label, next)
	}
	return nil
}

// has reports whether a list holds a text in any case.
func has(list []string, text string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return strings.EqualFold(s, text) })
}
