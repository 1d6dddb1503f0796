package tailnet

import (
	"slices"
	"strings"

	"heddle/policy"
)

// An Area is a part of the tailnet that rights are about. Areas are named as
// the hosted service names the scopes of its OAuth clients.
type Area string

const (
	AreaDevices  Area = "devices:core"
	AreaRoutes   Area = "devices:routes"
	AreaPosture  Area = "devices:posture_attributes"
	AreaPolicy   Area = "policy_file"
	AreaDNS      Area = "dns"
	AreaUsers    Area = "users"
	AreaAuthKeys Area = "auth_keys"
	AreaAPIKeys  Area = "api_access_tokens"
	AreaOAuth    Area = "oauth_keys"
	AreaSettings Area = "feature_settings"
	AreaWebhooks Area = "webhooks"
	AreaLogs     Area = "logs:configuration"
	AreaAccount  Area = "account_settings"
)

// Areas are all of them.
var Areas = []Area{AreaDevices, AreaRoutes, AreaPosture, AreaPolicy, AreaDNS, AreaUsers, AreaAuthKeys, AreaAPIKeys, AreaOAuth, AreaSettings, AreaWebhooks, AreaLogs, AreaAccount}

// A Right lets somebody read an area, or change it as well.
type Right struct {
	Area  Area
	Write bool
}

// Read and Write make rights.
func Read(a Area) Right  { return Right{Area: a} }
func Write(a Area) Right { return Right{a, true} }

// String is the right as a scope: "dns" or "dns:read".
func (r Right) String() string {
	if r.Write {
		return string(r.Area)
	}
	return string(r.Area) + ":read"
}

// roleWrites is the one table of roles: what each may change. Whoever may change an area
// may read it, and every role that is listed may read all others, but the
// billing admin, to whom only the account is open. A member administers nothing.
var roleWrites = map[policy.Role][]Area{
	policy.Owner:        Areas,
	policy.Admin:        Areas,
	policy.NetworkAdmin: {AreaRoutes, AreaPolicy, AreaDNS, AreaAuthKeys},
	policy.ITAdmin:      {AreaDevices, AreaRoutes, AreaPosture, AreaUsers, AreaAuthKeys, AreaAPIKeys, AreaOAuth, AreaSettings, AreaWebhooks, AreaLogs, AreaAccount},
	policy.BillingAdmin: {AreaAccount},
	policy.Auditor:      {},
}

// Roles are all roles, from the most powerful on.
var Roles = []policy.Role{policy.Owner, policy.Admin, policy.ITAdmin, policy.NetworkAdmin, policy.BillingAdmin, policy.Auditor, policy.Member}

// RoleMay reports whether a role has a right.
func RoleMay(role policy.Role, r Right) bool {
	writes, ok := roleWrites[role]
	if !ok {
		return false
	}
	return slices.Contains(writes, r.Area) || !r.Write && role != policy.BillingAdmin
}

// ScopeMay reports whether a scope gives a right: "all" and "all:read" do for every area,
// "devices" for those that begin with it.
func ScopeMay(scope string, r Right) bool {
	area, readOnly := strings.CutSuffix(scope, ":read")
	if readOnly && r.Write {
		return false
	}
	return area == "all" || area == string(r.Area) || strings.HasPrefix(string(r.Area), area+":")
}

// foreignScopes are those of the hosted service that are about what heddle does not have. They give no
// right; clients are made with them for programs such as the Kubernetes operator.
var foreignScopes = []string{"device_invites", "federated_keys", "log_streaming", "logs:network", "networking_settings", "oauth_apps", "services"}

// KnownScope reports whether there is such a scope.
func KnownScope(scope string) bool {
	return slices.Contains(foreignScopes, strings.TrimSuffix(scope, ":read")) || slices.ContainsFunc(Areas, func(a Area) bool { return ScopeMay(scope, Read(a)) })
}

func errUnknownScope(scope string) error {
	texts := make([]string, len(Areas))
	for i, a := range Areas {
		texts[i] = string(a)
	}
	return Errorf(Invalid, "there is no scope %q: there are all, devices, %s, and each with :read at its end, for reading alone", scope, strings.Join(texts, ", "))
}

// Can reports whether the actor has a right, as far as the actor itself tells. An
// update asks for more: see Snapshot.Can.
func (a Actor) Can(r Right) bool {
	switch a.Kind {
	case System, LocalCLI:
		return true
	case ByAPIKey, ByUser:
		if len(a.Scopes) > 0 {
			return slices.ContainsFunc(a.Scopes, func(scope string) bool { return ScopeMay(scope, r) })
		}
		return RoleMay(a.Role, r)
	}
	return false
}

// Can reports whether the actor has a right in this snapshot: if a user stands behind it,
// the user must be there, active, and have the right still.
func (s *Snapshot) Can(a Actor, r Right) bool {
	if !a.Can(r) {
		return false
	}
	if a.User == 0 {
		return true
	}
	u := s.User(a.User)
	return u != nil && u.Status == UserActive && RoleMay(u.Role, r)
}

// may refuses whoever lacks a right; what completes the sentence "… may not".
func (tx *Tx) may(r Right, what string) error {
	if tx.snap.Can(tx.actor, r) {
		return nil
	}
	var roles []string
	for _, role := range Roles {
		if RoleMay(role, r) {
			roles = append(roles, string(role))
		}
	}
	return Errorf(Denied, "%s may not %s: it takes the role %s, or the scope %s", tx.actor, what, strings.Join(roles, ", "), r)
}
