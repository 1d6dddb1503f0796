// Package wire owns how what a tailnet consists of looks in the messages of the admin
// contract.
//
// It refuses to know who asks and what they may see.
package wire

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"heddle/control/tailnet"
	v1 "heddle/proto/heddle/v1"

	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"
)

// Time returns t for the wire; the zero time is unset.
func Time(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// User is a user with everything that there is to know.
func User(u *tailnet.User) *v1.User {
	out := &v1.User{
		Id:            uint64(u.ID),
		Name:          u.Name,
		CreatedAt:     Time(u.Created),
		DisplayName:   u.DisplayName,
		Email:         u.Email,
		ProfilePicUrl: u.PictureURL,
		Role:          string(u.Role),
		Status:        string(u.Status),
		Groups:        u.Groups,
	}
	for _, i := range u.Identities {
		out.Identities = append(out.Identities, &v1.Identity{Issuer: i.Issuer, Subject: i.Subject})
	}
	if len(u.Identities) > 0 {
		out.Provider, out.ProviderId = "oidc", u.Identities[0].Issuer+"/"+u.Identities[0].Subject
	}
	return out
}

// Owner returns the user with that ID, the stand-in for tagged nodes if it is
// zero.
func Owner(snap *tailnet.Snapshot, id tailnet.UserID) *v1.User {
	if u := snap.User(id); u != nil {
		return User(u)
	}
	return &v1.User{Id: uint64(tailnet.TaggedDevices), Name: "tagged-devices"}
}

var methods = map[tailnet.Method]v1.RegisterMethod{
	tailnet.ByAuthKey: v1.RegisterMethod_REGISTER_METHOD_AUTH_KEY,
	tailnet.ByCLI:     v1.RegisterMethod_REGISTER_METHOD_CLI,
	tailnet.ByOIDC:    v1.RegisterMethod_REGISTER_METHOD_OIDC,
}

// Node is a node as it is at now.
func Node(snap *tailnet.Snapshot, n *tailnet.Node, now time.Time) *v1.Node {
	h := n.Report.Hostinfo
	out := &v1.Node{
		Id:              uint64(n.ID),
		MachineKey:      n.Machine.String(),
		NodeKey:         n.Key.String(),
		Name:            h.Hostname,
		User:            Owner(snap, n.Owner),
		LastSeen:        Time(n.Status.LastSeen),
		Expiry:          Time(n.Expiry),
		CreatedAt:       Time(n.Origin.Created),
		RegisterMethod:  methods[n.Origin.Method],
		GivenName:       n.Name,
		Online:          n.Status.Online,
		ApprovedRoutes:  texts(n.Approved),
		AvailableRoutes: texts(n.Advertised()),
		SubnetRoutes:    texts(carried(snap, n)),
		Tags:            n.Tags,
		ForcedTags:      n.Tags,
		ValidTags:       n.Tags,
		DnsName:         strings.TrimSuffix(snap.FQDN(n), "."),
		StableId:        string(n.StableID),
		Ephemeral:       n.Ephemeral,
		Expired:         n.Status.Expired,
		Os:              h.OS,
		ClientVersion:   h.IPNVersion,
		Endpoints:       texts(n.Report.Endpoints),
		HomeDerp:        uint32(max(0, n.Report.HomeDERP)),

		PendingApproval:   n.Pending,
		KeyExpiryDisabled: n.NoExpiry || n.Tagged(),
	}
	for _, p := range n.Addrs.Prefixes() {
		out.IpAddresses = append(out.IpAddresses, p.Addr().String())
	}
	if !n.Report.Disco.IsZero() {
		out.DiscoKey = n.Report.Disco.String()
	}
	if k := snap.AuthKey(n.Origin.AuthKey); k != nil {
		out.PreAuthKey = AuthKey(snap, k, now)
	}
	return out
}

// carried returns the routes that clients send to n now.
func carried(snap *tailnet.Snapshot, n *tailnet.Node) []netip.Prefix {
	return slices.DeleteFunc(n.Serves(), func(p netip.Prefix) bool { return !carries(snap, n, p) })
}

// carries reports whether clients send p, which n serves, to n.
func carries(snap *tailnet.Snapshot, n *tailnet.Node, p netip.Prefix) bool {
	return tsaddr.IsExitRoute(p) || snap.Primaries().Of(p) == n.ID
}

// Routes returns what n advertises and what was approved for it, sorted.
func Routes(snap *tailnet.Snapshot, n *tailnet.Node) []*v1.Route {
	all := slices.Concat(n.Advertised(), n.Approved)
	tsaddr.SortPrefixes(all)
	all = slices.Compact(all)
	serves := n.Serves()
	out := make([]*v1.Route, 0, len(all))
	for _, p := range all {
		out = append(out, &v1.Route{
			NodeId:     uint64(n.ID),
			Node:       n.Name,
			Prefix:     p.String(),
			Advertised: slices.Contains(n.Advertised(), p),
			Approved:   slices.Contains(n.Approved, p),
			Primary:    slices.Contains(serves, p) && carries(snap, n, p),
			Exit:       tsaddr.IsExitRoute(p),
		})
	}
	return out
}

// texts returns the text forms of a list.
func texts[T interface{ String() string }](list []T) []string {
	out := make([]string, 0, len(list))
	for _, v := range list {
		out = append(out, v.String())
	}
	return out
}

// What secrets begin with, before the part that may be known.
const (
	AuthKeyPrefix = "tskey-auth-"
	APIKeyPrefix  = "tskey-api-"
	ClientPrefix  = "tskey-client-"
)

// States of a key.
const (
	keyValid   = "valid"
	keyUsed    = "used"
	keyExpired = "expired"
	keyRevoked = "revoked"
)

func keyState(revoked, expires, now time.Time) string {
	switch {
	case !revoked.IsZero():
		return keyRevoked
	case !now.Before(expires):
		return keyExpired
	}
	return keyValid
}

// AuthKey is an auth key, without its secret, as it is at now.
func AuthKey(snap *tailnet.Snapshot, k *tailnet.AuthKey, now time.Time) *v1.PreAuthKey {
	out := &v1.PreAuthKey{
		Id:          uint64(k.ID),
		Key:         AuthKeyPrefix + k.Public + "-***",
		Reusable:    k.Reusable,
		Ephemeral:   k.Ephemeral,
		Used:        !k.Used.IsZero(),
		Expiration:  Time(k.Expires),
		CreatedAt:   Time(k.Created),
		AclTags:     k.Tags,
		Description: k.Description,
		LastUsed:    Time(k.Used),
		RevokedAt:   Time(k.Revoked),
		State:       keyState(k.Revoked, k.Expires, now),

		Preauthorized: k.Approved,
	}
	if out.State == keyValid && out.Used && !k.Reusable {
		out.State = keyUsed
	}
	if u := snap.User(k.Owner); u != nil {
		out.User = User(u)
	}
	return out
}

// APIKey is an API key, without its secret, as it is at now.
func APIKey(snap *tailnet.Snapshot, k *tailnet.APIKey, now time.Time) *v1.ApiKey {
	out := &v1.ApiKey{
		Id:          uint64(k.ID),
		Prefix:      k.Public,
		Expiration:  Time(k.Expires),
		CreatedAt:   Time(k.Created),
		LastSeen:    Time(k.LastUsed),
		Role:        string(k.Role),
		RevokedAt:   Time(k.Revoked),
		State:       keyState(k.Revoked, k.Expires, now),
		Scopes:      k.Scopes,
		Description: k.Description,
	}
	if u := snap.User(k.Owner); u != nil {
		out.User = User(u)
	}
	return out
}

// Client is an OAuth client or a federated identity, without its secret.
func Client(snap *tailnet.Snapshot, k *tailnet.APIKey) *v1.OAuthClient {
	out := &v1.OAuthClient{
		Id:          uint64(k.ID),
		ClientId:    k.Public,
		Scopes:      k.Scopes,
		Tags:        k.Tags,
		Description: k.Description,
		CreatedAt:   Time(k.Created),
		LastUsed:    Time(k.LastUsed),
		RevokedAt:   Time(k.Revoked),
	}
	if u := snap.User(k.Owner); u != nil {
		out.User = User(u)
	}
	if t := k.Trust; t != nil {
		out.Trust = &v1.OAuthTrust{Issuer: t.Issuer, Subject: t.Subject, Audience: t.Audience, Claims: t.Claims}
	}
	return out
}

// Attributes are the posture attributes of a node, in the order of their names.
func Attributes(n *tailnet.Node) []*v1.Attribute {
	all := n.Attributes()
	var out []*v1.Attribute
	for _, name := range slices.Sorted(maps.Keys(all)) {
		a := tailnet.Attribute{Value: all[name]}
		if n.Attrs != nil {
			a.Expires = (*n.Attrs)[name].Expires
		}
		out = append(out, Attribute(name, a))
	}
	return out
}

// Attribute is one of them.
func Attribute(name string, a tailnet.Attribute) *v1.Attribute {
	v, err := structpb.NewValue(a.Value)
	if err != nil {
		v = structpb.NewNullValue() // a text that is not UTF-8, of a client
	}
	return &v1.Attribute{Name: name, Value: v, Expiration: Time(a.Expires)}
}

// DNS is a DNS configuration, with the split domains in order.
func DNS(d *tailnet.DNS) *v1.DNS {
	out := &v1.DNS{
		BaseDomain:       d.BaseDomain,
		MagicDns:         d.MagicDNS,
		OverrideLocalDns: d.OverrideLocal,
		Nameservers:      d.Nameservers,
		SearchDomains:    d.Search,
	}
	for _, domain := range slices.Sorted(maps.Keys(d.Split)) {
		out.Split = append(out.Split, &v1.SplitDNS{Domain: domain, Nameservers: d.Split[domain]})
	}
	for _, r := range d.Records {
		out.Records = append(out.Records, &v1.DNSRecord{Name: r.Name, Type: r.Type, Value: r.Value})
	}
	return out
}

// Ports that a DERP node has unless it says otherwise (tailcfg.DERPNode).
const (
	defaultDERPPort = 443
	defaultSTUNPort = 3478
)

// DERPNode is a relay, with the ports that it has if its map does not say.
func DERPNode(n *tailcfg.DERPNode) *v1.DERPNode {
	out := &v1.DERPNode{
		Name:     n.Name,
		HostName: n.HostName,
		Ipv4:     n.IPv4,
		Ipv6:     n.IPv6,
		DerpPort: uint32(n.DERPPort),
		StunPort: uint32(max(0, n.STUNPort)),
		StunOnly: n.STUNOnly,
	}
	if n.DERPPort == 0 {
		out.DerpPort = defaultDERPPort
	}
	if n.STUNPort == 0 {
		out.StunPort = defaultSTUNPort
	}
	return out
}
