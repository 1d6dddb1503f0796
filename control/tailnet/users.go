package tailnet

import (
	"cmp"
	"strings"
	"unicode"
	"unicode/utf8"

	"heddle/policy"
)

// maxUsers bounds the table; a company of ten thousand has room to spare.
const maxUsers = 100_000

// maxText bounds every name, e-mail address and description that people type.
const maxText = 255

// CreateUser adds a user: Name is required, ID and Created are filled in, no
// Role means member. Nobody gives a role with rights that they do not have.
func (tx *Tx) CreateUser(u User) (*User, error) {
	if err := tx.may(Write(AreaUsers), "create users"); err != nil {
		return nil, err
	}
	if err := tx.mayGive(Actor{Kind: ByAPIKey, Role: u.Role}); err != nil {
		return nil, err
	}
	return tx.addUser(u)
}

func (tx *Tx) addUser(u User) (*User, error) {
	if tx.snap.users.m.Len() >= maxUsers {
		return nil, Errorf(Exhausted, "there are %d users already, the most a tailnet can have", maxUsers)
	}
	var err error
	if u.Name, err = tx.checkUserName(u.Name, 0); err != nil {
		return nil, err
	}
	for _, text := range []string{u.DisplayName, u.Email, u.PictureURL} {
		if err := checkText(text); err != nil {
			return nil, err
		}
	}
	if err := tx.checkLogin(&u); err != nil {
		return nil, err
	}
	u.Role = cmp.Or(u.Role, policy.Member)
	u.Status = cmp.Or(u.Status, UserActive)
	if err := tx.mayGrant(policy.Member, u.Role); err != nil {
		return nil, err
	}
	tx.snap.lastID.User++
	u.ID, u.Created = tx.snap.lastID.User, tx.now
	tx.putUser(&u)
	tx.audit("user.create", u.label(), userChanges(&User{}, &u)...)
	return &u, nil
}

// RenameUser changes a user's name. Policies that name the user must follow.
func (tx *Tx) RenameUser(id UserID, name string) error {
	u, err := tx.user(id, "rename users")
	if err != nil {
		return err
	}
	if name, err = tx.checkUserName(name, id); err != nil {
		return err
	}
	renamed := *u
	renamed.Name = name
	if err := tx.checkLogin(&renamed); err != nil {
		return err
	}
	tx.putUser(&renamed)
	tx.audit("user.rename", renamed.label(), Change{"name", u.Name, name})
	return nil
}

// DeleteUser removes a user who owns no node; the user's auth keys die too.
func (tx *Tx) DeleteUser(id UserID) error {
	u, err := tx.user(id, "delete users")
	if err != nil {
		return err
	}
	owned := 0
	for n := range tx.snap.Nodes() {
		if n.Owner == id {
			owned++
		}
	}
	if owned > 0 {
		return Errorf(Conflict, "user %s still owns %d nodes; delete them first (`heddle nodes list --user %s`)", u.Name, owned, u.Name)
	}
	if err := tx.keepAnOwner(u); err != nil {
		return err
	}
	for k := range tx.snap.AuthKeys() {
		if k.Owner == id {
			tx.dropAuthKey(k)
		}
	}
	for k := range tx.snap.APIKeys() {
		if k.Owner == id && k.Kind == KeyAPI {
			tx.dropAPIKey(k)
		}
	}
	tx.snap.dropUser(u)
	tx.delta.Users.drop(id)
	tx.dirtyPolicy = true
	tx.audit("user.delete", u.label(), userChanges(u, &User{})...)
	return nil
}

// user returns the user whom an admin wants to change, or an error.
func (tx *Tx) user(id UserID, what string) (*User, error) {
	if err := tx.may(Write(AreaUsers), what); err != nil {
		return nil, err
	}
	u := tx.snap.User(id)
	if u == nil {
		return nil, Errorf(NotFound, "no user with ID %d", id)
	}
	if err := tx.mayGrant(u.Role, policy.Member); err != nil {
		return nil, err
	}
	return u, nil
}

func (u *User) label() string { return "user " + u.ID.String() + " (" + u.Name + ")" }

// checkUserName returns the name trimmed if it is good and free for user id.
func (tx *Tx) checkUserName(name string, id UserID) (string, error) {
	name = strings.TrimSpace(name)
	if name == "" {
		return "", Errorf(Invalid, "a user needs a name, such as alice or alice@example.com")
	}
	if err := checkText(name); err != nil {
		return "", err
	}
	if strings.ContainsAny(name, " ,:/\"'") || name == "tagged-devices" {
		return "", Errorf(Invalid, "user name %q: spaces, quotes and , : / are not allowed, nor the name tagged-devices", name)
	}
	if isNumber(name) {
		return "", Errorf(Invalid, "user name %q: only digits would be taken for an ID", name)
	}
	if u := tx.userNamed(name); u != nil && u.ID != id {
		if id != 0 { // a new name
			return "", Errorf(Conflict, "there is a user %s already (ID %d); take another name, `heddle users list` shows those in use", u.Name, u.ID)
		}
		return "", Errorf(Conflict, "there is a user %s already (ID %d); go on with `heddle preauthkeys create --user %[2]d`, or take another name", u.Name, u.ID)
	}
	return name, nil
}

// checkLogin refuses a user whom policies could not tell from another.
func (tx *Tx) checkLogin(u *User) error {
	if other := tx.userNamed(u.Login()); other != nil && other.ID != u.ID {
		return Errorf(Conflict, "user %s (ID %d) is known as %s already", other.Name, other.ID, u.Login())
	}
	return nil
}

// userNamed returns the user who has that name or login, or nil.
func (tx *Tx) userNamed(name string) *User {
	for u := range tx.snap.Users() {
		if strings.EqualFold(u.Name, name) || strings.EqualFold(u.Login(), name) {
			return u
		}
	}
	return nil
}

// checkText refuses what would spoil a table, a log line or a page.
func checkText(s string) error {
	if len(s) > maxText {
		return Errorf(Invalid, "text of %d bytes is too long (at most %d)", len(s), maxText)
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return Errorf(Invalid, "text %q has control characters or is not UTF-8", s)
	}
	return nil
}
