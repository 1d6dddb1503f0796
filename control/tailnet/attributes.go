package tailnet

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"
)

// Attributes are the posture attributes that admins and their programs gave a node, by name:
// "custom:tier". A map in a Snapshot is immutable.
type Attributes map[string]Attribute

// An Attribute is a fact about a node that a policy's postures may ask for.
type Attribute struct {
	Value   any       // a string, a bool or a float64
	Expires time.Time // when it is gone; zero means never
}

// maxAttributes bounds those of a node: each is an input of the policy.
const maxAttributes = 100

var attributeName = regexp.MustCompile(`^custom:[A-Za-z][A-Za-z0-9_]{0,49}$`)

// SetAttribute gives a node an attribute, or another value of it.
func (tx *Tx) SetAttribute(id NodeID, name string, a Attribute) error {
	n, err := tx.node(id, AreaPosture, "set posture attributes")
	if err != nil {
		return err
	}
	if !attributeName.MatchString(name) {
		return Errorf(Invalid, "attribute %.80q: names look like custom:tier, with up to 50 letters, digits and _", name)
	}
	switch v := a.Value.(type) {
	case string:
		if err := checkText(v); err != nil {
			return err
		}
	case bool, float64:
	default:
		return Errorf(Invalid, "attribute %s: the value must be a text, a number, true or false", name)
	}
	if err := checkTime(a.Expires); err != nil {
		return err
	}
	if !a.Expires.IsZero() && !a.Expires.After(tx.now) {
		return Errorf(Invalid, "attribute %s would have expired already", name)
	}
	if _, ok := n.custom()[name]; !ok && len(n.custom()) >= maxAttributes {
		return Errorf(Exhausted, "%s has %d attributes already, the most a node can have", n.Name, maxAttributes)
	}
	tx.editAttributes(n, func(m Attributes) { m[name] = a })
	return nil
}

// DeleteAttribute takes an attribute from a node. One that it does not have is no error.
func (tx *Tx) DeleteAttribute(id NodeID, name string) error {
	n, err := tx.node(id, AreaPosture, "delete posture attributes")
	if err != nil {
		return err
	}
	tx.editAttributes(n, func(m Attributes) { delete(m, name) })
	return nil
}

// dropAttributes removes the attributes that have expired.
func (tx *Tx) dropAttributes(n *Node) {
	tx.editAttributes(n, func(m Attributes) {
		maps.DeleteFunc(m, func(_ string, a Attribute) bool { return !a.Expires.IsZero() && !tx.now.Before(a.Expires) })
	})
}

func (tx *Tx) editAttributes(n *Node, edit func(Attributes)) {
	m := maps.Clone(n.custom())
	if m == nil {
		m = Attributes{}
	}
	edit(m)
	if maps.Equal(m, n.custom()) {
		return
	}
	out := n.clone()
	if out.Attrs = &m; len(m) == 0 {
		out.Attrs = nil
	}
	tx.putHard(out)
	if at := m.news(); at.IsZero() {
		tx.cancel(attributeTimer, n.ID)
	} else {
		tx.at(attributeTimer, n.ID, at)
	}
	names := maps.Clone(m)
	maps.Copy(names, n.custom())
	var changes []Change
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if from, to := n.custom()[name], m[name]; from != to {
			changes = append(changes, Change{name, from.text(), to.text()})
		}
	}
	tx.audit("node.attribute", n.label(), changes...)
}

func (a Attribute) text() string {
	switch {
	case a.Value == nil:
		return ""
	case !a.Expires.IsZero():
		return fmt.Sprint(a.Value, " until ", timeText(a.Expires))
	}
	return fmt.Sprint(a.Value)
}

// news is when the first attribute expires; zero if none does.
func (m Attributes) news() time.Time {
	var first time.Time
	for _, a := range m {
		if !a.Expires.IsZero() && (first.IsZero() || a.Expires.Before(first)) {
			first = a.Expires
		}
	}
	return first
}

// custom are the attributes that the node was given. Read only.
func (n *Node) custom() Attributes {
	if n.Attrs == nil {
		return nil
	}
	return *n.Attrs
}

// Attributes returns all of a node's posture attributes, those that its client tells as well. The
// caller owns the map.
func (n *Node) Attributes() map[string]any {
	all := maps.Clone(n.Report.attrs)
	for name, a := range n.custom() {
		all[name] = a.Value
	}
	return all
}
