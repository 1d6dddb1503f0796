package syntax

import "github.com/tailscale/hujson"

var (
	testFields    = newSchema("test", "src|user", "srcPostureAttrs", "proto", "accept|allow", "deny")
	sshTestFields = newSchema("ssh test", "src", "srcPostureAttrs", "dst", "accept", "deny", "check")
)

// Placed is a string of the policy with its place.
type Placed struct {
	S            string
	Line, Column int
}

// Test is one entry of tests.
type Test struct {
	At           Placed // of the entry, S is empty
	Src          Placed
	Attrs        map[string]any // posture attributes; nil: those of the node
	Proto        Placed
	Accept, Deny []Placed
}

// SSHTest is one entry of sshTests.
type SSHTest struct {
	At                  Placed
	Src                 Placed
	Attrs               map[string]any
	Dst                 []Placed
	Accept, Deny, Check []Placed
}

func (p *parser) placed(t text) Placed {
	line, col := p.place(t.off)
	return Placed{t.s, line, col}
}

func (p *parser) placedList(v *hujson.Value, what string) []Placed {
	var out []Placed
	for _, t := range p.strs(v, what) {
		out = append(out, p.placed(t))
	}
	return out
}

func (p *parser) accessTests(v *hujson.Value) {
	kept := 0
	p.entries(v, "tests", func(v *hujson.Value) {
		kept = len(p.d.Tests)
		t := Test{At: p.placed(text{off: v.StartOffset})}
		p.fields(v, testFields, func(name string, v *hujson.Value) {
			switch name {
			case "src", "proto":
				s, _ := p.str(v, name)
				if name == "src" {
					t.Src = p.placed(s)
				} else {
					t.Proto = p.placed(s)
				}
			case "srcPostureAttrs":
				t.Attrs = p.postureAttrs(v)
			case "accept":
				t.Accept = p.placedList(v, name)
			case "deny":
				t.Deny = p.placedList(v, name)
			}
		})
		p.d.Tests = append(p.d.Tests, t)
	}, func() { p.d.Tests = p.d.Tests[:kept] })
}

func (p *parser) postureAttrs(v *hujson.Value) map[string]any {
	out := map[string]any{}
	p.members(v, "srcPostureAttrs", func(key text, v *hujson.Value) {
		val, err := p.scalar(v, "srcPostureAttrs["+key.s+"]")
		if err != nil {
			p.fail(v.StartOffset, "%v", err)
			return
		}
		out[key.s] = val
	})
	return out
}

func (p *parser) sshTests(v *hujson.Value) {
	kept := 0
	p.entries(v, "sshTests", func(v *hujson.Value) {
		kept = len(p.d.SSHTests)
		t := SSHTest{At: p.placed(text{off: v.StartOffset})}
		p.fields(v, sshTestFields, func(name string, v *hujson.Value) {
			switch name {
			case "src":
				s, _ := p.str(v, name)
				t.Src = p.placed(s)
			case "srcPostureAttrs":
				t.Attrs = p.postureAttrs(v)
			case "dst":
				t.Dst = p.placedList(v, name)
			case "accept":
				t.Accept = p.placedList(v, name)
			case "deny":
				t.Deny = p.placedList(v, name)
			case "check":
				t.Check = p.placedList(v, name)
			}
		})
		p.d.SSHTests = append(p.d.SSHTests, t)
	}, func() { p.d.SSHTests = p.d.SSHTests[:kept] })
}
