package dnsapi

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Route53 answers like Amazon Route 53, version 2013-04-01.
type Route53 struct {
	trouble
	AccessKeyID, SecretAccessKey string
	Zones                        []HostedZone
	// Lag is how often a change is still pending when it is asked for. The name servers have what it adds when the answer is
	// that it is not.
	Lag     int
	Changed func(name string, values []string) // is told what the name servers say of a name; may be nil

	mu      sync.Mutex
	sets    map[string][]recordSet // by ID of the zone
	pending map[string]*change
	seen    map[string][]string // what the name servers have, by name
}

// HostedZone is a zone.
type HostedZone struct {
	ID, Name string // the name without the final dot
	Private  bool
}

// recordSet is the records of one name and type.
type recordSet struct {
	Name    string // with the final dot
	Type    string
	TTL     int
	Records []resourceRecord `xml:"ResourceRecords>ResourceRecord"`
}

type resourceRecord struct{ Value string }

func setOf(name, kind string, ttl int, values ...string) recordSet {
	s := recordSet{Name: name, Type: kind, TTL: ttl}
	for _, v := range values {
		s.Records = append(s.Records, resourceRecord{v})
	}
	return s
}

func (s recordSet) values() (all []string) {
	for _, r := range s.Records {
		all = append(all, r.Value)
	}
	return all
}

// change is a batch that is not everywhere yet.
type change struct {
	left  int
	names []string
}

const xmlns = "https://route53.amazonaws.com/doc/2013-04-01/"

// Put makes a set of records, as somebody else would. The values are in quotes.
func (r *Route53) Put(zoneID, name string, ttl int, values ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.make()
	r.sets[zoneID] = append(r.sets[zoneID], setOf(name+".", "TXT", ttl, values...))
	r.tell(name, values)
}

// tell has the name servers know values.
func (r *Route53) tell(name string, values []string) {
	r.seen[name] = values
	if r.Changed != nil {
		r.Changed(name, values)
	}
}

func (r *Route53) make() {
	if r.sets == nil {
		r.sets, r.pending, r.seen = map[string][]recordSet{}, map[string]*change{}, map[string][]string{}
	}
}

// Values implements Server.
func (r *Route53) Values(name string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.values(name)
}

func (r *Route53) values(name string) (all []string) {
	for _, sets := range r.sets {
		for _, s := range sets {
			if s.Name == name+"." {
				all = append(all, s.values()...)
			}
		}
	}
	return all
}

// amazonError is an error of the API.
type amazonError struct {
	status        int
	code, message string
}

// ServeHTTP implements http.Handler.
func (r *Route53) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if !r.strikes(w, req, r.serve) {
		r.serve(w, req)
	}
}

func (r *Route53) serve(w http.ResponseWriter, req *http.Request) {
	var body []byte
	if req.Body != nil {
		body, _ = io.ReadAll(io.LimitReader(req.Body, 1<<20)) // what is cut off does not have the signature
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.make()
	answer, failed := r.answer(req, body)
	w.Header().Set("Content-Type", "text/xml")
	if failed != nil {
		Amazon(failed.status, failed.code, failed.message)(w, req)
		return
	}
	io.WriteString(w, xml.Header)
	xml.NewEncoder(w).Encode(answer)
}

// Amazon answers with an error of an API of Amazon's.
func Amazon(status int, code, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/xml")
		w.WriteHeader(status)
		var text bytes.Buffer
		xml.EscapeText(&text, []byte(message))
		fmt.Fprintf(w, `%s<ErrorResponse xmlns="%s"><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>b25f48e8-84fd-11e6-80d9-574e0c4664cb</RequestId></ErrorResponse>`, xml.Header, xmlns, code, &text)
	}
}

func (r *Route53) answer(req *http.Request, body []byte) (any, *amazonError) {
	if failed := r.verify(req, body); failed != nil {
		return nil, failed
	}
	path, ok := strings.CutPrefix(strings.TrimSuffix(req.URL.Path, "/"), "/2013-04-01/")
	parts := strings.Split(path, "/")
	switch {
	case !ok:
	case req.Method == "GET" && path == "hostedzonesbyname":
		return r.zonesByName(req)
	case req.Method == "GET" && len(parts) == 2 && parts[0] == "change":
		return r.changeState(parts[1])
	case len(parts) == 3 && parts[0] == "hostedzone" && parts[2] == "rrset":
		i := slices.IndexFunc(r.Zones, func(z HostedZone) bool { return z.ID == parts[1] })
		switch {
		case i < 0:
			return nil, &amazonError{404, "NoSuchHostedZone", "No hosted zone found with ID: " + parts[1]}
		case req.Method == "GET":
			return r.list(req, r.Zones[i])
		case req.Method == "POST":
			return r.change(r.Zones[i], body)
		}
	}
	return nil, &amazonError{404, "UnknownOperationException", req.Method + " " + req.URL.Path}
}

// verify signs the request again, with Amazon's own code, and compares.
func (r *Route53) verify(req *http.Request, body []byte) *amazonError {
	auth := req.Header.Get("Authorization")
	var credential, headers string
	for part := range strings.SplitSeq(strings.TrimPrefix(auth, "AWS4-HMAC-SHA256 "), ", ") {
		if v, ok := strings.CutPrefix(part, "Credential="); ok {
			credential = v
		}
		if v, ok := strings.CutPrefix(part, "SignedHeaders="); ok {
			headers = v
		}
	}
	at, err := time.Parse("20060102T150405Z", req.Header.Get("X-Amz-Date"))
	scope := strings.Split(credential, "/") // key, day, region, service, "aws4_request"
	if auth == "" || err != nil || len(scope) != 5 {
		return &amazonError{403, "MissingAuthenticationToken", "Missing Authentication Token"}
	}
	if scope[0] != r.AccessKeyID {
		return &amazonError{403, "InvalidClientTokenId", "The security token included in the request is invalid."}
	}
	if scope[2] != "us-east-1" || scope[3] != "route53" {
		return &amazonError{403, "SignatureDoesNotMatch", "Credential should be scoped to a valid region and the correct service."}
	}
	same, err := http.NewRequest(req.Method, "http://"+cmp.Or(req.Host, req.URL.Host)+req.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		return &amazonError{400, "InvalidInput", err.Error()}
	}
	for name := range strings.SplitSeq(headers, ";") {
		if name != "host" && name != "content-length" {
			same.Header[http.CanonicalHeaderKey(name)] = req.Header.Values(name)
		}
	}
	sum := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(context.Background(), aws.Credentials{AccessKeyID: r.AccessKeyID, SecretAccessKey: r.SecretAccessKey},
		same, hex.EncodeToString(sum[:]), scope[3], scope[2], at); err != nil || same.Header.Get("Authorization") != auth {
		return &amazonError{403, "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details."}
	}
	return nil
}

// zoneInfo is a zone as the API shows it.
type zoneInfo struct {
	ID              string `xml:"Id"`
	Name            string
	CallerReference string
	Private         bool `xml:"Config>PrivateZone"`
}

func (r *Route53) zonesByName(req *http.Request) (any, *amazonError) {
	type answer struct {
		XMLName          xml.Name   `xml:"https://route53.amazonaws.com/doc/2013-04-01/ ListHostedZonesByNameResponse"`
		HostedZones      []zoneInfo `xml:"HostedZones>HostedZone"`
		IsTruncated      bool
		NextDNSName      string `xml:",omitempty"`
		NextHostedZoneID string `xml:"NextHostedZoneId,omitempty"`
		MaxItems         int
	}
	most, failed := maxItems(req)
	if failed != nil {
		return nil, failed
	}
	all := slices.SortedFunc(slices.Values(r.Zones), func(a, b HostedZone) int {
		return cmp.Or(slices.Compare(labels(a.Name), labels(b.Name)), cmp.Compare(a.ID, b.ID))
	})
	from, id := req.URL.Query().Get("dnsname"), req.URL.Query().Get("hostedzoneid")
	out := answer{MaxItems: most, HostedZones: []zoneInfo{}}
	for _, z := range all {
		order := slices.Compare(labels(z.Name), labels(from))
		switch {
		case from != "" && (order < 0 || order == 0 && z.ID < id):
		case len(out.HostedZones) == most:
			out.IsTruncated, out.NextDNSName, out.NextHostedZoneID = true, z.Name+".", z.ID
			return out, nil
		default:
			out.HostedZones = append(out.HostedZones, zoneInfo{"/hostedzone/" + z.ID, z.Name + ".", "test", z.Private})
		}
	}
	return out, nil
}

func maxItems(req *http.Request) (int, *amazonError) {
	text := cmp.Or(req.URL.Query().Get("maxitems"), "100")
	most, err := strconv.Atoi(text)
	if err != nil || most < 1 || most > 300 {
		return 0, &amazonError{400, "InvalidInput", "Invalid value for MaxItems"}
	}
	return min(most, 100), nil
}

func (r *Route53) list(req *http.Request, z HostedZone) (any, *amazonError) {
	type answer struct {
		XMLName     xml.Name    `xml:"https://route53.amazonaws.com/doc/2013-04-01/ ListResourceRecordSetsResponse"`
		Sets        []recordSet `xml:"ResourceRecordSets>ResourceRecordSet"`
		IsTruncated bool
		MaxItems    int
	}
	most, failed := maxItems(req)
	if failed != nil {
		return nil, failed
	}
	q := req.URL.Query()
	if q.Get("type") != "" && q.Get("name") == "" {
		return nil, &amazonError{400, "InvalidInput", "The input is not valid: type without name"}
	}
	soa := setOf(z.Name+".", "SOA", 900, "ns-1.awsdns.example. hostmaster.example. 1 7200 900 1209600 86400")
	all := slices.SortedFunc(slices.Values(append([]recordSet{soa}, r.sets[z.ID]...)), func(a, b recordSet) int {
		return cmp.Or(slices.Compare(labels(a.Name), labels(b.Name)), cmp.Compare(a.Type, b.Type))
	})
	out := answer{MaxItems: most}
	for _, s := range all {
		order := slices.Compare(labels(s.Name), labels(q.Get("name")))
		switch {
		case q.Get("name") != "" && (order < 0 || order == 0 && s.Type < q.Get("type")):
		case len(out.Sets) == most:
			out.IsTruncated = true
			return out, nil
		default:
			out.Sets = append(out.Sets, s)
		}
	}
	return out, nil
}

// changeInfo is a change as the API shows it.
type changeInfo struct {
	ID          string `xml:"Id"`
	Status      string
	SubmittedAt string
}

func infoOf(id, status string) changeInfo {
	return changeInfo{"/change/" + id, status, "2026-01-02T03:04:05.678Z"}
}

func (r *Route53) changeState(id string) (any, *amazonError) {
	type answer struct {
		XMLName xml.Name   `xml:"https://route53.amazonaws.com/doc/2013-04-01/ GetChangeResponse"`
		Info    changeInfo `xml:"ChangeInfo"`
	}
	c := r.pending[id]
	if c == nil {
		return nil, &amazonError{404, "NoSuchChange", "Could not find resource with ID: " + id}
	}
	if c.left > 0 {
		c.left--
		return answer{Info: infoOf(id, "PENDING")}, nil
	}
	for _, name := range c.names {
		r.tell(name, r.values(name))
	}
	return answer{Info: infoOf(id, "INSYNC")}, nil
}

func (r *Route53) change(z HostedZone, body []byte) (any, *amazonError) {
	type answer struct {
		XMLName xml.Name   `xml:"https://route53.amazonaws.com/doc/2013-04-01/ ChangeResourceRecordSetsResponse"`
		Info    changeInfo `xml:"ChangeInfo"`
	}
	var batch struct {
		XMLName xml.Name `xml:"https://route53.amazonaws.com/doc/2013-04-01/ ChangeResourceRecordSetsRequest"`
		Changes []struct {
			Action string
			Set    recordSet `xml:"ResourceRecordSet"`
		} `xml:"ChangeBatch>Changes>Change"`
	}
	if err := xml.Unmarshal(body, &batch); err != nil || len(batch.Changes) == 0 {
		return nil, &amazonError{400, "MalformedInput", "Unable to parse request"}
	}
	sets, made := slices.Clone(r.sets[z.ID]), &change{left: r.Lag}
	for _, c := range batch.Changes {
		var problem string
		if sets, problem = applied(sets, c.Action, c.Set, z); problem != "" {
			return nil, &amazonError{400, "InvalidChangeBatch", "[" + problem + "]"}
		}
		made.names = append(made.names, strings.TrimSuffix(c.Set.Name, "."))
	}
	r.sets[z.ID] = sets
	for _, name := range made.names {
		values := r.values(name)
		r.tell(name, slices.DeleteFunc(slices.Clone(r.seen[name]), func(v string) bool { return !slices.Contains(values, v) }))
	}
	id := fmt.Sprintf("C%013d", len(r.pending)+1)
	r.pending[id] = made
	return answer{Info: infoOf(id, "PENDING")}, nil
}

// applied are the sets after one change, all or nothing of which counts, or why it is refused.
func applied(sets []recordSet, action string, s recordSet, z HostedZone) (_ []recordSet, problem string) {
	what := fmt.Sprintf("[name='%s', type='%s']", s.Name, s.Type)
	if !within(strings.TrimSuffix(s.Name, "."), z.Name) {
		return nil, fmt.Sprintf("RRSet with DNS name %s is not permitted in zone %s.", s.Name, z.Name)
	}
	if s.Type != "TXT" || s.TTL == 0 || len(s.Records) == 0 {
		return nil, "Invalid request: only TXT records with a TTL are known here"
	}
	values := s.values()
	for i, v := range values {
		if len(v) < 2 || v[0] != '"' || v[len(v)-1] != '"' {
			return nil, fmt.Sprintf("Invalid Resource Record: FATAL problem: InvalidCharacterString (Value should be enclosed in quotation marks) encountered with '%s'", v)
		}
		if slices.Contains(values[:i], v) {
			return nil, fmt.Sprintf("Duplicate Resource Record: '%s'", v)
		}
	}
	i := slices.IndexFunc(sets, func(o recordSet) bool { return o.Name == s.Name && o.Type == s.Type })
	switch {
	case action == "CREATE" && i >= 0:
		return nil, "Tried to create resource record set " + what + " but it already exists"
	case action == "DELETE" && i < 0:
		return nil, "Tried to delete resource record set " + what + " but it was not found"
	case action == "DELETE" && !same(sets[i], s):
		return nil, "Tried to delete resource record set " + what + " but the values provided do not match the current values"
	case action == "DELETE":
		return slices.Delete(slices.Clone(sets), i, i+1), ""
	case action == "UPSERT" && i >= 0:
		sets = slices.Clone(sets)
		sets[i] = s
		return sets, ""
	case action == "CREATE" || action == "UPSERT":
		return append(slices.Clip(sets), s), ""
	}
	return nil, "Invalid action " + action
}

// same compares what a deletion must name exactly. The order of values does not count.
func same(a, b recordSet) bool {
	return a.TTL == b.TTL && slices.Equal(slices.Sorted(slices.Values(a.values())), slices.Sorted(slices.Values(b.values())))
}
