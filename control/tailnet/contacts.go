package tailnet

import "strings"

// Contacts are the e-mail addresses of whom to turn to. heddle keeps them for those who ask; it writes
// to nobody.
type Contacts struct {
	Account, Support, Security string
}

// field returns the contact of a kind: account, support or security; nil if there is no such kind.
func (c *Contacts) field(kind string) *string {
	return map[string]*string{"account": &c.Account, "support": &c.Support, "security": &c.Security}[kind]
}

// SetContact changes the contact of a kind: account, support or security.
func (tx *Tx) SetContact(kind, email string) error {
	if err := tx.may(Write(AreaAccount), "change contacts"); err != nil {
		return err
	}
	s := *tx.snap.settings
	contact := s.Contacts.field(kind)
	if contact == nil {
		return Errorf(NotFound, "there is no contact %.40q; there are account, support and security", kind)
	}
	if err := checkText(email); err != nil {
		return err
	}
	if local, domain, ok := strings.Cut(email, "@"); !ok || local == "" || domain == "" || strings.ContainsAny(email, " ,<>") {
		return Errorf(Invalid, "%q is not an e-mail address", email)
	}
	old := *contact
	if old == email {
		return nil
	}
	*contact = email
	tx.putSettings(s)
	tx.audit("contact.set", "contact "+kind, Change{"email", old, email})
	return nil
}
