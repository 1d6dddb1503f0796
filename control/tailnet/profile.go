package tailnet

import "heddle/policy"

// An Identity is who an identity provider says somebody is: the issuer's URL
// and the subject there. It never changes, whatever becomes of the e-mail address
// (OpenID Connect Core §5.7).
type Identity struct {
	Issuer, Subject string
}

// A Profile is what an identity provider tells of a person who has just logged in.
type Profile struct {
	Identity    Identity
	Provider    string // the name of the provider in the configuration, for the audit log
	Email       string // one that the provider vouches for; "" if it does for none
	Name        string // what the person is called there, a wish for User.Name; may be ""
	DisplayName string
	PictureURL  string
	Groups      []string    // without doubles; nil if the provider says nothing of groups, which leaves them as they are
	Role        policy.Role // "" if the provider does not decide on roles
}
