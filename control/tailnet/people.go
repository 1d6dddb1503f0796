package tailnet

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"heddle/policy"
)

// maxIdentities bounds how many identities are linked to one user, maxUserGroups how
// many groups a provider may put one in.
const (
	maxIdentities = 16
	maxUserGroups = 1000
)

// LogIn takes over what an identity provider says of a person, and returns the user. Who was never here becomes a
// new user, who may have to wait for an admin's approval. The caller
// has checked the provider's word.
//
// A user is found by identity alone: that the e-mail addresses of two are the same proves nothing.
func (tx *Tx) LogIn(p Profile) (*User, error) {
	if tx.actor.Kind != ByUser && tx.actor.Kind != System {
		return nil, Errorf(Denied, "%s may not log in as somebody", tx.actor)
	}
	if p.Identity.Issuer == "" || p.Identity.Subject == "" {
		return nil, Errorf(Invalid, "the identity provider did not say who this is")
	}
	for _, text := range []string{p.Identity.Issuer, p.Identity.Subject, p.Email, p.DisplayName, p.PictureURL} {
		if err := checkText(text); err != nil {
			return nil, err
		}
	}
	known := tx.snap.UserByIdentity(p.Identity)
	if known == nil {
		return tx.welcome(p)
	}
	if known.Status == UserSuspended {
		return nil, Errorf(Denied, "user %s is suspended here; ask an administrator", known.Name)
	}
	u := *known
	tx.follow(&u, p)
	if u.Role == policy.Owner {
		u.Status = UserActive
	}
	if changes := userChanges(known, &u); len(changes) > 0 {
		tx.putUser(&u)
		tx.audit("user.login", u.label(), changes...)
	}
	return &u, nil
}

// welcome makes a user of somebody who was never here.
func (tx *Tx) welcome(p Profile) (*User, error) {
	u := User{Name: tx.freeUserName(calledBy(p)), Status: UserActive, Identities: []Identity{p.Identity}}
	if tx.snap.settings.Admission.UserApproval {
		u.Status = UserPending
	}
	tx.follow(&u, p)
	if u.Role == policy.Owner {
		u.Status = UserActive // there may be nobody else who could approve
	}
	return tx.addUser(u)
}

// follow changes u as the provider says.
func (tx *Tx) follow(u *User, p Profile) {
	if p.Email != "" && p.Email != u.Email {
		if u.Name == u.Email && tx.userNamed(p.Email) == nil {
			u.Name = tx.freeUserName(calledBy(p))
		}
		before := u.Email
		if u.Email = p.Email; tx.checkLogin(u) != nil { // policies know by it who has no address for a name
			u.Email = before
		}
	}
	u.DisplayName = cmp.Or(p.DisplayName, u.DisplayName)
	u.PictureURL = cmp.Or(p.PictureURL, u.PictureURL)
	if p.Groups != nil {
		u.Groups = cleanGroups(p.Groups)
	}
	switch {
	case tx.foundsOwner(p):
		u.Role = policy.Owner
	case p.Role != "" && u.Role != policy.Owner && slices.Contains(Roles, p.Role) && p.Role != policy.Owner:
		u.Role = p.Role
	default:
		u.Role = cmp.Or(u.Role, policy.Member)
	}
}

// foundsOwner reports whether somebody is an owner by the configuration or, without any
// there, for being the first to log in.
func (tx *Tx) foundsOwner(p Profile) bool {
	if owners := tx.snap.inputs.owners; len(owners) > 0 {
		return p.Email != "" && slices.ContainsFunc(owners, func(o string) bool { return strings.EqualFold(o, p.Email) })
	}
	for u := range tx.snap.Users() {
		if len(u.Identities) > 0 || u.Role == policy.Owner {
			return false
		}
	}
	return true
}

// SetOwners replaces Options.Owners, for those who log in from now on. It is not stored.
func (tx *Tx) SetOwners(emails []string) error {
	if err := tx.may(Write(AreaUsers), "say who is an owner"); err != nil {
		return err
	}
	tx.snap.inputs.owners, tx.changed = emails, true
	return nil
}

// cleanGroups drops what no policy could name, and what is too much.
func cleanGroups(groups []string) []string {
	out := slices.DeleteFunc(sortedUnique(groups), func(g string) bool { return g == "" || checkText(g) != nil })
	return out[:min(len(out), maxUserGroups)]
}

// calledBy is what a provider calls somebody: the e-mail address, if it can be a name as it is, or else what is
// no address. Policies know users by addresses, and people choose other names as they like.
func calledBy(p Profile) string {
	if p.Email != "" && userNameOf(p.Email) == p.Email {
		return p.Email
	}
	return strings.ReplaceAll(cmp.Or(p.Email, p.Name, p.DisplayName), "@", "-")
}

// freeUserName makes a name for a new user of what they are called, with a number
// behind it if it is taken. That is no address of the same domain, so
// nobody gets the rights of another by it.
func (tx *Tx) freeUserName(called string) string {
	base := userNameOf(called)
	for n := 1; ; n++ {
		name := base
		if n > 1 {
			name = fmt.Sprintf("%s-%d", base, n)
		}
		if _, err := tx.checkUserName(name, 0); err == nil {
			return name
		}
	}
}

// userNameOf makes a name that checkUserName takes, unless it is somebody's.
func userNameOf(s string) string {
	s = strings.Map(func(c rune) rune {
		if strings.ContainsRune(" ,:/\"'", c) {
			return '-'
		}
		return c
	}, strings.TrimSpace(s))
	if s == "" || isNumber(s) || s == "tagged-devices" || len(s) > maxText-8 || checkText(s) != nil {
		return "user"
	}
	return s
}

// ApproveUser lets a user who waits use the tailnet, and the devices too, unless new
// devices wait for an approval of their own, or an admin holds them.
func (tx *Tx) ApproveUser(id UserID) error {
	u, err := tx.user(id, "approve users")
	if err != nil {
		return err
	}
	if u.Status != UserPending {
		return Errorf(Conflict, "user %s does not wait for approval (%s)", u.Name, u.Status)
	}
	tx.setStatus(u, UserActive, "user.approve")
	if !tx.snap.settings.Admission.DeviceApproval {
		for n := range tx.snap.Nodes() {
			if n.Owner == id && n.Pending && !n.Held {
				tx.admitPending(n)
			}
		}
	}
	return nil
}

// SuspendUser shuts a user out: the keys of the user's devices expire now, auth keys and API keys are
// revoked, and nobody can log in as the user. Devices with tags are nobody's and stay.
func (tx *Tx) SuspendUser(id UserID) error {
	u, err := tx.user(id, "suspend users")
	if err != nil || u.Status == UserSuspended {
		return err
	}
	if u.ID == tx.actor.User {
		return Errorf(Conflict, "nobody can suspend themselves; another admin can")
	}
	if err := tx.keepAnOwner(u); err != nil {
		return err
	}
	tx.setStatus(u, UserSuspended, "user.suspend")
	for n := range tx.snap.Nodes() {
		if n.Owner == id && !n.Status.Expired {
			out := n.clone()
			tx.setExpiry(out, tx.now)
			tx.edit("node.expiry", n, out)
		}
	}
	for k := range tx.snap.AuthKeys() {
		if k.Owner == id {
			tx.revokeAuthKey(k)
		}
	}
	for k := range tx.snap.APIKeys() {
		if k.Owner == id && k.Kind == KeyAPI {
			tx.revokeAPIKey(k)
		}
	}
	return nil
}

// RestoreUser lets a suspended user log in again. What was revoked and has expired stays so.
func (tx *Tx) RestoreUser(id UserID) error {
	u, err := tx.user(id, "restore users")
	if err != nil {
		return err
	}
	if u.Status != UserSuspended {
		return Errorf(Conflict, "user %s is not suspended", u.Name)
	}
	tx.setStatus(u, UserActive, "user.restore")
	return nil
}

func (tx *Tx) setStatus(u *User, s UserStatus, action string) {
	out := *u
	out.Status = s
	tx.putUser(&out)
	tx.audit(action, out.label(), userChanges(u, &out)...)
}

// SetRole changes a user's role. Nobody gives rights that they do not have. Only owners make and unmake owners, only owners and admins
// make and unmake admins.
func (tx *Tx) SetRole(id UserID, role policy.Role) error {
	u, err := tx.user(id, "change roles")
	if err != nil || u.Role == role {
		return err
	}
	if !slices.Contains(Roles, role) {
		return Errorf(Invalid, "there is no role %q; the roles are %s", role, roleList())
	}
	if err := tx.mayGrant(u.Role, role); err != nil {
		return err
	}
	if err := tx.mayGive(Actor{Kind: ByAPIKey, Role: role}); err != nil {
		return err
	}
	if role != policy.Owner {
		if err := tx.keepAnOwner(u); err != nil {
			return err
		}
	}
	out := *u
	out.Role = role
	tx.putUser(&out)
	tx.audit("user.role", out.label(), userChanges(u, &out)...)
	return nil
}

func roleList() string {
	texts := make([]string, len(Roles))
	for i, r := range Roles {
		texts[i] = string(r)
	}
	return strings.Join(texts, ", ")
}

// mayGrant refuses to take or give roles that are above the actor's.
func (tx *Tx) mayGrant(from, to policy.Role) error {
	switch tx.actor.Kind {
	case System, LocalCLI:
		return nil
	case ByUser:
		if tx.actor.User == 0 { // somebody who logs in for the first time; the role is the configuration's or the provider's
			return nil
		}
	}
	mine := []policy.Role{tx.actor.Role} // none of a key with scopes
	if u := tx.snap.User(tx.actor.User); u != nil {
		mine = append(mine, u.Role) // a key can do less than its user, and never more
	}
	for _, m := range mine {
		for _, r := range []policy.Role{from, to} {
			if r == policy.Owner && m != policy.Owner || r == policy.Admin && m != policy.Owner && m != policy.Admin {
				return Errorf(Denied, "%s may not make or unmake somebody %s", tx.actor, r)
			}
		}
	}
	return nil
}

// keepAnOwner refuses to let go of the last owner who can log in, if the role is in use.
func (tx *Tx) keepAnOwner(u *User) error {
	if u.Role != policy.Owner || u.Status != UserActive {
		return nil
	}
	for other := range tx.snap.Users() {
		if other.ID != u.ID && other.Role == policy.Owner && other.Status == UserActive {
			return nil
		}
	}
	if tx.actor.Kind == LocalCLI || tx.actor.Kind == System {
		return nil // whoever holds the machine is above all roles
	}
	return Errorf(Conflict, "%s is the only owner; make somebody else an owner first", u.Name)
}

// LinkIdentity lets somebody log in as a user. The identity must be nobody's.
func (tx *Tx) LinkIdentity(id UserID, who Identity) error {
	u, err := tx.user(id, "link identities")
	if err != nil {
		return err
	}
	if err := tx.mayGive(Actor{Kind: ByAPIKey, Role: u.Role}); err != nil { // whoever links may mean themselves
		return err
	}
	if other := tx.snap.UserByIdentity(who); other != nil {
		return Errorf(Conflict, "that identity is user %s's; delete that user first, or unlink it there", other.Name)
	}
	if who.Issuer == "" || who.Subject == "" {
		return Errorf(Invalid, "an identity is an issuer's URL and a subject; the server's log shows both when somebody logs in")
	}
	for _, text := range []string{who.Issuer, who.Subject} {
		if err := checkText(text); err != nil {
			return err
		}
	}
	if len(u.Identities) >= maxIdentities {
		return Errorf(Exhausted, "user %s has %d identities already", u.Name, maxIdentities)
	}
	out := *u
	out.Identities = append(slices.Clone(u.Identities), who)
	tx.putUser(&out)
	tx.audit("user.link", out.label(), userChanges(u, &out)...)
	return nil
}

// UnlinkIdentity takes an identity from a user.
func (tx *Tx) UnlinkIdentity(id UserID, who Identity) error {
	u, err := tx.user(id, "unlink identities")
	if err != nil {
		return err
	}
	if !slices.Contains(u.Identities, who) {
		return Errorf(NotFound, "user %s does not have that identity", u.Name)
	}
	out := *u
	out.Identities = slices.DeleteFunc(slices.Clone(u.Identities), func(i Identity) bool { return i == who })
	tx.putUser(&out)
	tx.audit("user.unlink", out.label(), userChanges(u, &out)...)
	return nil
}

// activeUser returns an error unless the user is there and active.
func (tx *Tx) activeUser(id UserID) error {
	u := tx.snap.User(id)
	switch {
	case u == nil:
		return Errorf(NotFound, "no user with ID %d", id)
	case u.Status != UserActive:
		return Errorf(Conflict, "user %s is not active (%s)", u.Name, u.Status)
	}
	return nil
}
