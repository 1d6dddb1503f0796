package db

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"heddle/control/tailnet"

	"tailscale.com/tailcfg"
)

// timeLayout is exact, readable, and sorts as text. Times are in UTC.
const timeLayout = "2006-01-02T15:04:05.000000000Z"

// An encoder makes column values and keeps the first error.
type encoder struct {
	err error
}

func (e *encoder) fail(column string, err error) {
	if e.err == nil {
		e.err = fmt.Errorf("column %s: %w", column, err)
	}
}

func (e *encoder) json(column string, v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		e.fail(column, err)
	}
	return string(b)
}

// list makes "[]" of a nil slice.
func list[T any](e *encoder, column string, v []T) string {
	if len(v) == 0 {
		return "[]"
	}
	return e.json(column, v)
}

func (e *encoder) time(column string, t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	s := t.UTC().Format(timeLayout)
	if len(s) != len(timeLayout) { // it could not be read again
		e.fail(column, fmt.Errorf("the year of %s does not have four digits", s))
	}
	return &s
}

func addrText(ip netip.Addr) *string {
	if !ip.IsValid() {
		return nil
	}
	s := ip.String()
	return &s
}

// A decoder reads column values of one row and keeps the first error.
type decoder struct {
	err error
}

func (d *decoder) fail(column string, err error) {
	if d.err == nil {
		d.err = fmt.Errorf("column %s: %w", column, err)
	}
}

func (d *decoder) time(column string, s *string) time.Time {
	if s == nil {
		return time.Time{}
	}
	t, err := time.Parse(timeLayout, *s)
	if err != nil {
		d.fail(column, err)
	}
	return t
}

func (d *decoder) addr(column string, s *string) netip.Addr {
	if s == nil {
		return netip.Addr{}
	}
	ip, err := netip.ParseAddr(*s)
	if err != nil {
		d.fail(column, err)
	}
	return ip
}

func (d *decoder) addrs(c addrColumns) tailnet.Addrs {
	return tailnet.Addrs{V4: d.addr("ipv4", c.IPv4), V6: d.addr("ipv6", c.IPv6)}
}

func (d *decoder) key(column, s string, into interface{ UnmarshalText([]byte) error }) {
	if err := into.UnmarshalText([]byte(s)); err != nil {
		d.fail(column, err)
	}
}

func (d *decoder) hash(b []byte) (sum [32]byte) {
	if copy(sum[:], b) != len(b) || len(b) != len(sum) {
		d.fail("hash", fmt.Errorf("%d bytes long, not %d", len(b), len(sum)))
	}
	return sum
}

// decodeStrict refuses JSON fields that this version does not know, so that it does
// not drop them when it writes the value again.
func decodeStrict(d *decoder, column, s string, into any) {
	dec := json.NewDecoder(strings.NewReader(s))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if err == nil {
		if _, end := dec.Token(); end != io.EOF {
			err = errors.New("more than one JSON value")
		}
	}
	if err != nil {
		d.fail(column, err)
	}
}

// decodeList returns nil for an empty list. Every element must pass valid.
func decodeList[T any](d *decoder, column, s string, valid func(T) bool) []T {
	var out []T
	if s == "[]" {
		return nil
	}
	decodeStrict(d, column, s, &out)
	for _, v := range out {
		if !valid(v) {
			d.fail(column, fmt.Errorf("bad element %v", v))
			return nil
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// setRole sets a role without naming its type, which is the policy's: this
// package knows the model only.
func setRole[R ~string](role *R, s string) { *role = R(s) }

func notEmpty(s string) bool { return s != "" }

func nodeToRow(e *encoder, name string, n *tailnet.Node) nodeRow {
	r := nodeRow{
		Key:        rowKey{name, int64(n.ID)},
		StableID:   string(n.StableID),
		MachineKey: n.Machine.String(),
		NodeKey:    n.Key.String(),
		Owner:      int64(n.Owner),
		Tags:       list(e, "tags", n.Tags),
		Name:       n.Name,
		Fixed:      n.Fixed,
		Addrs:      addrColumns{addrText(n.Addrs.V4), addrText(n.Addrs.V6)},
		Expiry:     e.time("expiry", n.Expiry),
		Terms:      e.terms(n.Terms),
		Approved:   list(e, "approved", n.Approved),
		Origin: originColumns{
			CreatedAt:  e.time("created_at", n.Origin.Created),
			Method:     string(n.Origin.Method),
			AuthKeyRef: int64(n.Origin.AuthKey),
		},
		Report: reportColumns{
			Endpoints: list(e, "endpoints", n.Report.Endpoints),
			HomeDERP:  n.Report.HomeDERP,
			CapVer:    int(n.Report.CapVer),
			Hostinfo:  e.json("hostinfo", n.Report.Hostinfo),
		},
		Status: statusColumns{
			Online:   n.Status.Online,
			LastSeen: e.time("last_seen", n.Status.LastSeen),
		},
	}
	if disco := n.Report.Disco; !disco.IsZero() {
		s := disco.String()
		r.Report.DiscoKey = &s
	}
	return r
}

func (d *decoder) node(r *nodeRow) *tailnet.Node {
	n := &tailnet.Node{
		ID:       tailnet.NodeID(r.Key.ID),
		StableID: tailcfg.StableNodeID(r.StableID),
		Owner:    tailnet.UserID(r.Owner),
		Tags:     decodeList(d, "tags", r.Tags, notEmpty),
		Name:     r.Name,
		Fixed:    r.Fixed,
		Addrs:    d.addrs(r.Addrs),
		Expiry:   d.time("expiry", r.Expiry),
		Terms:    d.terms(r.Terms),
		Approved: decodeList(d, "approved", r.Approved, netip.Prefix.IsValid),
		Origin: tailnet.Origin{
			Created: d.time("created_at", r.Origin.CreatedAt),
			Method:  tailnet.Method(r.Origin.Method),
			AuthKey: tailnet.AuthKeyID(r.Origin.AuthKeyRef),
		},
		Report: &tailnet.Report{
			Endpoints: decodeList(d, "endpoints", r.Report.Endpoints, netip.AddrPort.IsValid),
			HomeDERP:  r.Report.HomeDERP,
			CapVer:    tailcfg.CapabilityVersion(r.Report.CapVer),
			Hostinfo:  &tailcfg.Hostinfo{},
		},
		Status: tailnet.Status{
			Online:   r.Status.Online,
			LastSeen: d.time("last_seen", r.Status.LastSeen),
		},
	}
	d.key("machine_key", r.MachineKey, &n.Machine)
	d.key("node_key", r.NodeKey, &n.Key)
	if r.Report.DiscoKey != nil {
		d.key("disco_key", *r.Report.DiscoKey, &n.Report.Disco)
	}
	// Not strict: the fields are upstream's and come and go with its versions.
	if err := json.Unmarshal([]byte(r.Report.Hostinfo), n.Report.Hostinfo); err != nil {
		d.fail("hostinfo", err)
	}
	return n
}

func (e *encoder) terms(t tailnet.Terms) termsColumns {
	attrs := map[string]attributeJSON{}
	if t.Attrs != nil {
		for name, a := range *t.Attrs {
			attrs[name] = attributeJSON{a.Value, e.time("attrs", a.Expires)}
		}
	}
	return termsColumns{Ephemeral: t.Ephemeral, NoExpiry: t.NoExpiry, Pending: t.Pending, Held: t.Held, Attrs: e.json("attrs", attrs)}
}

func (d *decoder) terms(c termsColumns) tailnet.Terms {
	t := tailnet.Terms{Ephemeral: c.Ephemeral, NoExpiry: c.NoExpiry, Pending: c.Pending, Held: c.Held}
	if c.Attrs == "{}" {
		return t
	}
	var attrs map[string]attributeJSON
	decodeStrict(d, "attrs", c.Attrs, &attrs)
	out := tailnet.Attributes{}
	for name, a := range attrs {
		out[name] = tailnet.Attribute{Value: a.Value, Expires: d.time("attrs", a.Expires)}
	}
	t.Attrs = &out
	return t
}

func userToRow(e *encoder, name string, u *tailnet.User) userRow {
	return userRow{
		Key:         rowKey{name, int64(u.ID)},
		Name:        u.Name,
		DisplayName: u.DisplayName,
		Email:       u.Email,
		PictureURL:  u.PictureURL,
		Role:        string(u.Role),
		Status:      string(u.Status),
		Identities:  list(e, "identities", identitiesToJSON(u.Identities)),
		Groups:      list(e, "idp_groups", u.Groups),
		CreatedAt:   e.time("created_at", u.Created),
	}
}

func (d *decoder) user(r *userRow) *tailnet.User {
	u := &tailnet.User{
		ID:          tailnet.UserID(r.Key.ID),
		Name:        r.Name,
		DisplayName: r.DisplayName,
		Email:       r.Email,
		PictureURL:  r.PictureURL,
		Status:      tailnet.UserStatus(r.Status),
		Groups:      decodeList(d, "idp_groups", r.Groups, notEmpty),
		Created:     d.time("created_at", r.CreatedAt),
	}
	for _, id := range decodeList(d, "identities", r.Identities, func(i identityJSON) bool { return i.Issuer != "" && i.Subject != "" }) {
		u.Identities = append(u.Identities, tailnet.Identity(id))
	}
	setRole(&u.Role, r.Role)
	return u
}

func identitiesToJSON(ids []tailnet.Identity) []identityJSON {
	out := make([]identityJSON, len(ids))
	for i, id := range ids {
		out[i] = identityJSON(id)
	}
	return out
}

func authKeyToRow(e *encoder, name string, k *tailnet.AuthKey) authKeyRow {
	return authKeyRow{
		Key:         rowKey{name, int64(k.ID)},
		Public:      k.Public,
		Hash:        k.Hash[:],
		Bcrypt:      k.Bcrypt,
		Owner:       int64(k.Owner),
		Tags:        list(e, "tags", k.Tags),
		Reusable:    k.Reusable,
		Ephemeral:   k.Ephemeral,
		Approved:    k.Approved,
		Description: k.Description,
		CreatedAt:   e.time("created_at", k.Created),
		ExpiresAt:   e.time("expires_at", k.Expires),
		UsedAt:      e.time("used_at", k.Used),
		RevokedAt:   e.time("revoked_at", k.Revoked),
	}
}

func (d *decoder) authKey(r *authKeyRow) *tailnet.AuthKey {
	return &tailnet.AuthKey{
		ID:          tailnet.AuthKeyID(r.Key.ID),
		Public:      r.Public,
		Hash:        d.hash(r.Hash),
		Bcrypt:      r.Bcrypt,
		Owner:       tailnet.UserID(r.Owner),
		Tags:        decodeList(d, "tags", r.Tags, notEmpty),
		Reusable:    r.Reusable,
		Ephemeral:   r.Ephemeral,
		Approved:    r.Approved,
		Description: r.Description,
		Created:     d.time("created_at", r.CreatedAt),
		Expires:     d.time("expires_at", r.ExpiresAt),
		Used:        d.time("used_at", r.UsedAt),
		Revoked:     d.time("revoked_at", r.RevokedAt),
	}
}

func apiKeyToRow(e *encoder, name string, k *tailnet.APIKey) apiKeyRow {
	return apiKeyRow{
		Key:         rowKey{name, int64(k.ID)},
		Kind:        kindColumns{string(k.Kind), int64(k.Parent), e.json("trust", (*trustJSON)(k.Trust))},
		Public:      k.Public,
		Hash:        k.Hash[:],
		Owner:       int64(k.Owner),
		Role:        string(k.Role),
		Scopes:      list(e, "scopes", k.Scopes),
		Tags:        list(e, "tags", k.Tags),
		Description: k.Description,
		CreatedAt:   e.time("created_at", k.Created),
		ExpiresAt:   e.time("expires_at", k.Expires),
		RevokedAt:   e.time("revoked_at", k.Revoked),
		UsedAt:      e.time("used_at", k.LastUsed),
	}
}

func (d *decoder) apiKey(r *apiKeyRow) *tailnet.APIKey {
	k := &tailnet.APIKey{
		ID:          tailnet.APIKeyID(r.Key.ID),
		Kind:        tailnet.KeyKind(r.Kind.Kind),
		Parent:      tailnet.APIKeyID(r.Kind.Parent),
		Public:      r.Public,
		Hash:        d.hash(r.Hash),
		Owner:       tailnet.UserID(r.Owner),
		Scopes:      decodeList(d, "scopes", r.Scopes, notEmpty),
		Tags:        decodeList(d, "tags", r.Tags, notEmpty),
		Description: r.Description,
		Created:     d.time("created_at", r.CreatedAt),
		Expires:     d.time("expires_at", r.ExpiresAt),
		Revoked:     d.time("revoked_at", r.RevokedAt),
		LastUsed:    d.time("used_at", r.UsedAt),
	}
	var trust *trustJSON
	decodeStrict(d, "trust", r.Kind.Trust, &trust)
	k.Trust = (*tailnet.Trust)(trust)
	setRole(&k.Role, r.Role)
	return k
}

func tombstoneToRow(e *encoder, name string, t *tailnet.Tombstone) tombstoneRow {
	return tombstoneRow{
		Tailnet:    name,
		NodeKey:    t.Key.String(),
		MachineKey: t.Machine.String(),
		NodeID:     int64(t.Node),
		StableID:   string(t.StableID),
		Name:       t.Name,
		Addrs:      addrColumns{addrText(t.Addrs.V4), addrText(t.Addrs.V6)},
		Owner:      int64(t.Owner),
		EndsAt:     e.time("ends_at", t.Ends),
	}
}

func (d *decoder) tombstone(r *tombstoneRow) *tailnet.Tombstone {
	t := &tailnet.Tombstone{
		Node:     tailnet.NodeID(r.NodeID),
		StableID: tailcfg.StableNodeID(r.StableID),
		Name:     r.Name,
		Addrs:    d.addrs(r.Addrs),
		Owner:    tailnet.UserID(r.Owner),
		Ends:     d.time("ends_at", r.EndsAt),
	}
	d.key("node_key", r.NodeKey, &t.Key)
	d.key("machine_key", r.MachineKey, &t.Machine)
	return t
}

func settingsToRow(e *encoder, name string, s *tailnet.Settings) settingsRow {
	dns := dnsJSON{
		MagicDNS:      s.DNS.MagicDNS,
		OverrideLocal: s.DNS.OverrideLocal,
		Nameservers:   s.DNS.Nameservers,
		Split:         s.DNS.Split,
		Search:        s.DNS.Search,
	}
	for _, r := range s.DNS.Records {
		dns.Records = append(dns.Records, recordJSON(r))
	}
	v := settingsJSON{DNS: dns}
	if a := s.Admission; a != (tailnet.Admission{}) {
		v.Admission = &admissionJSON{a.DeviceApproval, a.UserApproval, int64(a.KeyExpiry / time.Second)}
		if a.KeyExpiry < 0 {
			v.Admission.KeyExpiry = -1
		}
	}
	if s.Contacts != (tailnet.Contacts{}) {
		c := contactsJSON(s.Contacts)
		v.Contacts = &c
	}
	for _, w := range s.Webhooks {
		j := webhookJSON{
			ID: w.ID, URL: w.URL, Provider: string(w.Provider), Secret: w.Secret, Creator: w.Creator,
			Created: e.time("data", w.Created), Changed: e.time("data", w.Changed),
		}
		for _, event := range w.Events {
			j.Events = append(j.Events, string(event))
		}
		v.Webhooks = append(v.Webhooks, j)
	}
	return settingsRow{Tailnet: name, Data: e.json("data", v)}
}

func (d *decoder) settings(r *settingsRow) *tailnet.Settings {
	var v settingsJSON
	decodeStrict(d, "data", r.Data, &v)
	s := &tailnet.Settings{DNS: tailnet.DNS{
		MagicDNS:      v.DNS.MagicDNS,
		OverrideLocal: v.DNS.OverrideLocal,
		Nameservers:   v.DNS.Nameservers,
		Split:         v.DNS.Split,
		Search:        v.DNS.Search,
	}}
	for _, r := range v.DNS.Records {
		s.DNS.Records = append(s.DNS.Records, tailnet.DNSRecord(r))
	}
	if a := v.Admission; a != nil {
		s.Admission = tailnet.Admission{DeviceApproval: a.DeviceApproval, UserApproval: a.UserApproval, KeyExpiry: time.Duration(a.KeyExpiry) * time.Second}
		if a.KeyExpiry < 0 {
			s.Admission.KeyExpiry = -1
		}
	}
	if v.Contacts != nil {
		s.Contacts = tailnet.Contacts(*v.Contacts)
	}
	for _, j := range v.Webhooks {
		w := &tailnet.Webhook{
			ID: j.ID, URL: j.URL, Provider: tailnet.Provider(j.Provider), Secret: j.Secret, Creator: j.Creator,
			Created: d.time("data", j.Created), Changed: d.time("data", j.Changed),
		}
		for _, event := range j.Events {
			w.Events = append(w.Events, tailnet.Event(event))
		}
		s.Webhooks = append(s.Webhooks, w)
	}
	return s
}

func policyToRow(e *encoder, name string, seq tailnet.Seq, p *tailnet.Policy) policyRow {
	return policyRow{
		Tailnet:   name,
		Seq:       int64(seq),
		Source:    p.Source,
		ETag:      p.ETag,
		UpdatedAt: e.time("updated_at", p.Updated),
		UpdatedBy: p.By,
	}
}

func (d *decoder) policy(r *policyRow) *tailnet.Policy {
	return &tailnet.Policy{
		Source:   r.Source,
		ETag:     r.ETag,
		Updated:  d.time("updated_at", r.UpdatedAt),
		By:       r.UpdatedBy,
		Revision: tailnet.Seq(r.Seq),
	}
}

func auditToRow(e *encoder, key rowKey, seq tailnet.Seq, a *tailnet.AuditEntry) auditRow {
	changes := make([]changeJSON, len(a.Changes))
	for i, c := range a.Changes {
		changes[i] = changeJSON(c)
	}
	return auditRow{
		Key:       key,
		Seq:       int64(seq),
		At:        e.time("at", a.At),
		ActorKind: string(a.Actor.Kind),
		ActorName: a.Actor.Name,
		ActorRole: string(a.Actor.Role),
		ActorFrom: a.Actor.From,
		ActorUser: int64(a.Actor.User),
		Reason:    a.Actor.Reason,
		Action:    a.Action,
		Target:    a.Target,
		Changes:   list(e, "changes", changes),
	}
}

func (d *decoder) audit(r *auditRow) tailnet.AuditEntry {
	a := tailnet.AuditEntry{
		At: d.time("at", r.At),
		Actor: tailnet.Actor{
			Kind:   tailnet.ActorKind(r.ActorKind),
			Name:   r.ActorName,
			User:   tailnet.UserID(r.ActorUser),
			From:   r.ActorFrom,
			Reason: r.Reason,
		},
		Action: r.Action,
		Target: r.Target,
	}
	setRole(&a.Actor.Role, r.ActorRole)
	for _, c := range decodeList(d, "changes", r.Changes, func(changeJSON) bool { return true }) {
		a.Changes = append(a.Changes, tailnet.Change(c))
	}
	return a
}
