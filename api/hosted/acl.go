package hosted

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"heddle/control/tailnet"
	"heddle/policy"
	"heddle/policy/syntax"

	"github.com/go-chi/chi/v5"
	"github.com/tailscale/hujson"
)

const mediaHuJSON = "application/hujson"

// defaultETag stands for the policy of a tailnet where none was ever set, or where it was given up: who sends
// it in If-Match wants to be the first.
const defaultETag = "ts-default"

// defaultPolicy is what is in force then, written down.
const defaultPolicy = `// Everything may reach everything. Replace this with your own policy.
{
	"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}],
}
`

func (s *Server) aclRoutes(r chi.Router) {
	r.Get("/acl", s.admin(tailnet.Read(tailnet.AreaPolicy), s.getACL))
	r.Post("/acl", s.admin(tailnet.Write(tailnet.AreaPolicy), s.setACL))
	r.Post("/acl/preview", s.admin(tailnet.Read(tailnet.AreaPolicy), s.previewACL))
	r.Post("/acl/validate", s.admin(tailnet.Read(tailnet.AreaPolicy), s.validateACL))
}

func sourceOf(p *tailnet.Policy) string {
	if p.Source == "" {
		return defaultPolicy
	}
	return p.Source
}

// etagOf is a policy's ETag on this wire: programs compute it themselves from their file, formatted
// as the hosted service's tools do.
func etagOf(source string) string {
	text, err := hujson.Format([]byte(source))
	if err != nil {
		text = []byte(source)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func (s *Server) getACL(c *call) (any, error) {
	source := sourceOf(c.snapshot().Policy())
	if c.URL.Query().Get("details") == "true" {
		return c.aclDetails(source), nil
	}
	return c.acl(source)
}

// aclDetails is the policy with what there is to say of it.
type aclDetails struct {
	ACL      []byte   `json:"acl"` // base64 of the HuJSON
	Warnings []string `json:"warnings"`
	Errors   []string `json:"errors"`
}

func (c *call) aclDetails(source string) aclDetails {
	d := aclDetails{ACL: []byte(source)}
	p, err := tailnet.PreparePolicy(c.snapshot(), source)
	var problems policy.Errors
	switch {
	case err == nil:
		d.Warnings = dataOf(p.Warnings)[0].Errors
	case errors.As(err, &problems): // of users and devices that came after it, say
		d.Errors = dataOf(problems)[0].Errors
	default:
		d.Errors = []string{tailnet.Message(err)}
	}
	return d
}

// acl answers with a policy in the form that the caller accepts.
func (c *call) acl(source string) (any, error) {
	c.header.Set("ETag", `"`+etagOf(source)+`"`)
	if c.accepts(mediaHuJSON) {
		return &raw{mediaHuJSON, []byte(source)}, nil
	}
	text, err := hujson.Standardize([]byte(source))
	if err != nil {
		return nil, &tailnet.Error{Code: tailnet.Internal, Msg: "the stored policy is not HuJSON", Err: err}
	}
	return &raw{mediaJSON, text}, nil
}

func (s *Server) setACL(c *call) (any, error) {
	if file := s.PolicyFile(); file != "" {
		return nil, tailnet.Errorf(tailnet.Conflict, "the policy is the file %s on the server; change it there", file)
	}
	text, err := c.text()
	if err != nil {
		return nil, err
	}
	now := c.snapshot().Policy()
	ifMatch := ""
	switch want := strings.Trim(strings.TrimPrefix(c.Header.Get("If-Match"), "W/"), `"`); {
	case want == "":
	case want == defaultETag && sourceOf(now) == defaultPolicy, want == etagOf(sourceOf(now)), want == now.ETag:
		ifMatch = now.ETag
	default:
		return nil, tailnet.Errorf(tailnet.Changed, "the policy has changed meanwhile; fetch it again")
	}
	source := string(text)
	if strings.TrimSpace(source) == "" {
		source = defaultPolicy
	}
	done, err := c.working()
	if err != nil {
		return nil, err
	}
	defer done()
	if _, _, err := s.State.PutPolicy(c.Context(), c.actor, source, ifMatch); err != nil {
		return nil, err
	}
	return c.acl(source)
}

// validated is the answer about a good policy. Programs take any message or data for a refusal, so that warnings
// have a field of their own.
type validated struct {
	Warnings []string `json:"warnings,omitempty"`
}

// validateACL says what is wrong with a policy, or tries tests with the policy in force. That something is wrong
// is no error of the request.
func (s *Server) validateACL(c *call) (any, error) {
	text, err := c.text()
	if err != nil {
		return nil, err
	}
	done, err := c.working()
	if err != nil {
		return nil, err
	}
	defer done()
	source := string(text)
	if plain, err := syntax.Standardize(text); err == nil && strings.HasPrefix(strings.TrimSpace(string(plain)), "[") {
		if source, err = withTests(sourceOf(c.snapshot().Policy()), plain); err != nil {
			return nil, err
		}
	}
	p, err := tailnet.PreparePolicy(c.snapshot(), source)
	var problems policy.Errors
	switch {
	case err == nil:
		return validated{dataOf(p.Warnings)[0].Errors}, nil
	case tailnet.CodeOf(err) != tailnet.Invalid:
		return nil, err
	case errors.As(err, &problems):
		return problem{Message: tailnet.Message(err), Data: dataOf(problems), Status: http.StatusBadRequest}, nil
	}
	return problem{Message: tailnet.Message(err), Status: http.StatusBadRequest}, nil
}

// withTests returns a policy with other tests.
func withTests(source string, tests []byte) (string, error) {
	plain, err := hujson.Standardize([]byte(source))
	if err != nil {
		return "", &tailnet.Error{Code: tailnet.Internal, Msg: "the stored policy is not HuJSON", Err: err}
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(plain, &fields); err != nil {
		return "", &tailnet.Error{Code: tailnet.Internal, Msg: "the stored policy is not an object", Err: err}
	}
	fields["tests"] = tests
	text, err := json.Marshal(fields)
	return string(text), err
}

// dataOf is the form of this wire for all problems of a policy.
func dataOf(problems policy.Errors) []problemData {
	d := problemData{}
	for _, p := range problems {
		d.Errors = append(d.Errors, p.Error())
	}
	return []problemData{d}
}
