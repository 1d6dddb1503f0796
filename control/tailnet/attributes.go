package tailnet

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"time"
)

// Attributes are the posture attributes that a node was given, by name: "custom:tier"; by admins and
// their programs, and by the node itself as far as the policy lets it. A map in a Snapshot is immutable.
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
	if err := checkAttribute(name, a.Value); err != nil {
		return err
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

func checkAttribute(name string, value any) error {
	if !attributeName.MatchString(name) {
		return Errorf(Invalid, "attribute %.80q: names look like custom:tier, with up to 50 letters, digits and _", name)
	}
	switch v := value.(type) {
	case string:
		return checkText(v)
	case float64:
		if !math.IsNaN(v) && !math.IsInf(v, 0) { // which are no JSON
			return nil
		}
	case bool:
		return nil
	}
	return Errorf(Invalid, "attribute %s: the value must be a text, a number, true or false", name)
}

// SetOwnAttributes changes attributes of a node as its own client asks (tailcfg.AttrUpdate): all or
// none of them, and nil takes one away. The policy's attrConfig must let devices set each; they do not expire.
func (tx *Tx) SetOwnAttributes(id NodeID, update map[string]any) error {
	n := tx.snap.Node(id)
	switch {
	case n == nil:
		return Errorf(NotFound, "no node with ID %d", id)
	case tx.actor.Kind != ByNode || tx.actor.Name != n.Machine.ShortString():
		return Errorf(Denied, "%s is not %s, and only a device itself may set its attributes so", tx.actor, n.Name)
	case len(update) > maxAttributes:
		return Errorf(Invalid, "these are %d attributes; a device can have %d", len(update), maxAttributes)
	}
	for _, name := range slices.Sorted(maps.Keys(update)) {
		if err := tx.maySetOwn(name, update[name]); err != nil {
			return err
		}
	}
	next := maps.Clone(n.custom())
	if next == nil {
		next = Attributes{}
	}
	for name, value := range update {
		if next[name] = (Attribute{Value: value}); value == nil {
			delete(next, name)
		}
	}
	if len(next) > maxAttributes {
		return Errorf(Exhausted, "%s would have %d attributes; the most is %d", n.Name, len(next), maxAttributes)
	}
	tx.editAttributes(n, func(m Attributes) {
		clear(m)
		maps.Copy(m, next)
	})
	return nil
}

// attributeTypes are the types of values as attrConfig calls them.
var attributeTypes = map[string]func(any) bool{
	"":       func(any) bool { return true },
	"string": func(v any) bool { _, ok := v.(string); return ok },
	"bool":   func(v any) bool { _, ok := v.(bool); return ok },
	"number": func(v any) bool { _, ok := v.(float64); return ok },
}

// maySetOwn refuses what the policy does not let devices set of themselves; a value of nil is to take it away.
func (tx *Tx) maySetOwn(name string, value any) error {
	c := tx.snap.policy.Doc.Custom(name)
	if !c.SetByNode {
		return Errorf(Denied, `the policy does not let devices set the attribute %.80q of themselves; an admin can allow it: "attrConfig": {"custom:tier": {"allowSetByNode": true}}`, name)
	}
	if value == nil {
		return nil
	}
	if is := attributeTypes[c.Type]; is != nil && !is(value) {
		return Errorf(Invalid, "attribute %s: the policy (attrConfig) wants a %s", name, c.Type)
	}
	return checkAttribute(name, value)
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
