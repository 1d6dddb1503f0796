package policy

import "slices"

// Domains returns the mail domains that the policy names, by user:*@domain or
// localpart:*@domain, in order. A server without a list of its own domains
// gives them to Compile, so that Check finds nothing wrong with them.
func (d *Doc) Domains() []string {
	var out []string
	for _, one := range d.text.Deferred {
		if one.Domain != "" {
			out = append(out, one.Domain)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
