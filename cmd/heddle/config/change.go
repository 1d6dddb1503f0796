package config

import (
	"reflect"
	"slices"
)

// live and restart are what a change of a key takes, as its reload tag says.
const (
	live    = "live"
	restart = "restart"
)

// LiveKeys returns the keys whose changes a server takes over while it runs, sorted. Those of the
// others need a restart.
func LiveKeys() (keys []string) {
	for _, k := range configSchema().keys {
		if k.reload == live {
			keys = append(keys, k.path)
		}
	}
	slices.Sort(keys)
	return keys
}

// Changed returns the keys that mean something else in the configuration other, sorted.
func (c *Config) Changed(other *Config) (keys []string) {
	was, is := reflect.ValueOf(c).Elem(), reflect.ValueOf(other).Elem()
	for _, k := range configSchema().keys {
		_, wasSet := c.Set[k.path]
		_, isSet := other.Set[k.path]
		switch {
		case k.section:
		case k.fixes && wasSet != isSet, !reflect.DeepEqual(was.FieldByIndex(k.field).Interface(), is.FieldByIndex(k.field).Interface()):
			keys = append(keys, k.path)
		}
	}
	slices.Sort(keys)
	return keys
}

// Keep takes over what another configuration says of some keys, which share their values from then on.
func (c *Config) Keep(from *Config, keys ...string) {
	to, values := reflect.ValueOf(c).Elem(), reflect.ValueOf(from).Elem()
	for _, path := range keys {
		k := configSchema().byPath[path]
		to.FieldByIndex(k.field).Set(values.FieldByIndex(k.field))
		delete(c.Set, path)
		if at, ok := from.Set[path]; ok {
			c.Set[path] = at
		}
	}
}
