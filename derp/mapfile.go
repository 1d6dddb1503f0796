package derp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"tailscale.com/tailcfg"
)

// parseMapFile reads a DERP map as people write it: YAML or JSON, keys in any
// case. Unknown keys are errors. The errors come all at once, each with its
// line.
func parseMapFile(data []byte) (*tailcfg.DERPMap, error) {
	if trimmed := bytes.TrimSpace(data); len(trimmed) > 0 && trimmed[0] == '{' {
		// JSON is YAML, but for tabs between its tokens; within strings, JSON
		// has none.
		data = bytes.ReplaceAll(data, []byte("\t"), []byte(" "))
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, errors.New("the file is empty; write \"regions: {}\" if it shall have no regions")
	} else if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, errors.New("the file must hold one document only")
	}
	p := &mapParser{}
	m := p.derpMap(doc.Content[0])
	if err := p.errs.err(); err != nil {
		return nil, err
	}
	if err := checkMap(m); err != nil {
		return nil, err
	}
	return m, nil
}

// mapParser turns the nodes of a YAML document into a DERP map, and collects
// what is wrong.
type mapParser struct{ errs problems }

func (p *mapParser) fail(n *yaml.Node, format string, args ...any) {
	p.errs.add(fmt.Errorf("line %d: %s", n.Line, fmt.Sprintf(format, args...)))
}

// field stores the value of one key.
type field func(*yaml.Node)

// object reads an object with the given keys, which are in lower case.
func (p *mapParser) object(n *yaml.Node, fields map[string]field) {
	p.pairs(n, func(k, v *yaml.Node) {
		set := fields[strings.ToLower(k.Value)]
		if set == nil {
			p.fail(k, "unknown key %q; the keys here are: %s", k.Value, strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
			return
		}
		set(v)
	})
}

// byRegion reads an object whose keys are region IDs.
func (p *mapParser) byRegion(n *yaml.Node, set func(id int, v *yaml.Node)) {
	p.pairs(n, func(k, v *yaml.Node) {
		id, err := strconv.Atoi(k.Value)
		if err != nil {
			p.fail(k, "%q is not a region ID", k.Value)
			return
		}
		set(id, v)
	})
}

// pairs calls f for each key and value of an object; null is an empty object.
func (p *mapParser) pairs(n *yaml.Node, f func(k, v *yaml.Node)) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		p.fail(n, "expected keys and values, found %s", kindOf(n))
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		name := strings.ToLower(k.Value)
		switch {
		case k.Kind != yaml.ScalarNode:
			p.fail(k, "expected a key, found %s", kindOf(k))
		case seen[name]:
			p.fail(k, "key %q stands here twice", k.Value)
		default:
			seen[name] = true
			f(k, v)
		}
	}
}

func (p *mapParser) derpMap(n *yaml.Node) *tailcfg.DERPMap {
	m := &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{}}
	p.object(n, map[string]field{
		"regions": func(v *yaml.Node) {
			p.byRegion(v, func(id int, v *yaml.Node) { m.Regions[id] = p.region(id, v) })
		},
		"homeparams": func(v *yaml.Node) {
			m.HomeParams = &tailcfg.DERPHomeParams{RegionScore: map[int]float64{}}
			p.object(v, map[string]field{"regionscore": func(v *yaml.Node) {
				p.byRegion(v, func(id int, v *yaml.Node) {
					var score float64
					p.float(&score)(v)
					m.HomeParams.RegionScore[id] = score
				})
			}})
		},
		"omitdefaultregions": p.bool(&m.OmitDefaultRegions),
	})
	return m
}

// region reads one region; it is nil for null.
func (p *mapParser) region(id int, n *yaml.Node) *tailcfg.DERPRegion {
	if isNull(n) {
		return nil
	}
	r := &tailcfg.DERPRegion{RegionID: id}
	failures := len(p.errs)
	p.object(n, map[string]field{
		"regionid":        p.int(&r.RegionID),
		"regioncode":      p.string(&r.RegionCode),
		"regionname":      p.string(&r.RegionName),
		"latitude":        p.float(&r.Latitude),
		"longitude":       p.float(&r.Longitude),
		"avoid":           p.bool(&r.Avoid),
		"nomeasurenohome": p.bool(&r.NoMeasureNoHome),
		"nodes": func(v *yaml.Node) {
			if isNull(v) {
				return
			}
			if v.Kind != yaml.SequenceNode {
				p.fail(v, "expected a list of nodes, found %s", kindOf(v))
				return
			}
			for _, item := range v.Content {
				r.Nodes = append(r.Nodes, p.node(id, item))
			}
		},
	})
	if len(p.errs) == failures { // else the same mistake might be told twice
		if err := checkRegion(id, r); err != nil {
			p.fail(n, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
		}
	}
	return r
}

func (p *mapParser) node(region int, n *yaml.Node) *tailcfg.DERPNode {
	d := &tailcfg.DERPNode{RegionID: region}
	p.object(n, map[string]field{
		"name":             p.string(&d.Name),
		"regionid":         p.int(&d.RegionID),
		"hostname":         p.string(&d.HostName),
		"certname":         p.string(&d.CertName),
		"ipv4":             p.string(&d.IPv4),
		"ipv6":             p.string(&d.IPv6),
		"stunport":         p.int(&d.STUNPort),
		"stunonly":         p.bool(&d.STUNOnly),
		"derpport":         p.int(&d.DERPPort),
		"insecurefortests": p.bool(&d.InsecureForTests),
		"stuntestip":       p.string(&d.STUNTestIP),
		"canport80":        p.bool(&d.CanPort80),
	})
	return d
}

// string, int, float and bool return a field that stores a scalar; null leaves
// the destination as it is.

func (p *mapParser) string(dst *string) field {
	return p.scalar("text", func(n *yaml.Node) bool {
		*dst = n.Value
		return true
	})
}

func (p *mapParser) int(dst *int) field {
	return p.scalar("a whole number", func(n *yaml.Node) bool {
		i, err := strconv.Atoi(n.Value)
		*dst = i
		return err == nil
	})
}

func (p *mapParser) float(dst *float64) field {
	return p.scalar("a number", func(n *yaml.Node) bool {
		f, err := strconv.ParseFloat(n.Value, 64)
		*dst = f
		return err == nil
	})
}

func (p *mapParser) bool(dst *bool) field {
	return p.scalar("true or false", func(n *yaml.Node) bool {
		*dst = n.Value == "true"
		return n.Value == "true" || n.Value == "false"
	})
}

func (p *mapParser) scalar(want string, set func(*yaml.Node) bool) field {
	return func(n *yaml.Node) {
		switch {
		case isNull(n):
		case n.Kind != yaml.ScalarNode:
			p.fail(n, "expected %s, found %s", want, kindOf(n))
		case !set(n):
			p.fail(n, "expected %s, found %q", want, n.Value)
		}
	}
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "a YAML alias, which is not supported here"
	}
	return strconv.Quote(n.Value)
}
