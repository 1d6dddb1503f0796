package zones

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/route53"
	"github.com/aws/aws-sdk-go-v2/service/route53/types"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
	"github.com/libdns/libdns"
)

const (
	// amazonRegion is where Route 53, which is one for the whole world, signs for.
	amazonRegion = "us-east-1"
	// edits is how often a change is tried when somebody else changes the same records.
	edits = 5
	// spreadIn bounds the wait until all of Amazon's name servers have a record; usually it is below a minute.
	spreadIn = 2 * time.Minute
	// spreadFirst and spreadEvery are the pause between questions whether they have it, at first and at most: an account
	// may make five requests a second in all.
	spreadFirst, spreadEvery = 2 * time.Second, 10 * time.Second
)

// Route53 writes into public hosted zones of Amazon Route 53.
type Route53 struct{ api *route53.Client }

// Route53Options say whose zones they are. The zero value is for the account that the environment, Amazon's shared
// files, or the role of the machine or container stand for, as all of Amazon's programs find it.
type Route53Options struct {
	AccessKeyID, SecretAccessKey string            // both or none
	Client                       config.HTTPClient // makes the requests; nil is one of its own
	API                          string            // its URL; "" is Amazon's
}

// NewRoute53 reads the environment and Amazon's shared files. It connects nowhere yet.
func NewRoute53(ctx context.Context, o Route53Options) (*Route53, error) {
	if o.Client == nil {
		o.Client = awshttp.NewBuildableClient().WithTimeout(answerIn)
	}
	with := []func(*config.LoadOptions) error{
		config.WithDefaultRegion(amazonRegion), config.WithHTTPClient(o.Client), config.WithRetryMaxAttempts(tries),
		config.WithLogger(logging.Nop{}), // it would write to standard error by itself
	}
	if o.AccessKeyID != "" {
		with = append(with, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(o.AccessKeyID, o.SecretAccessKey, "")))
	}
	cfg, err := config.LoadDefaultConfig(ctx, with...)
	if err != nil {
		return nil, fmt.Errorf("Amazon's configuration on this machine cannot be used: %w", err)
	}
	found := cfg.Credentials
	cfg.Credentials = aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
		c, err := found.Retrieve(ctx)
		if err != nil {
			err = fmt.Errorf("%w (%w)", errNoCredentials, err)
		}
		return c, err
	})
	return &Route53{route53.NewFromConfig(cfg, func(ro *route53.Options) {
		if o.API != "" {
			ro.BaseEndpoint = &o.API
		}
	})}, nil
}

var errNoCredentials = errors.New("there are no credentials: set tls.acme.dns.access_key_id and secret_access_key, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role")

// hosted calls yield for the public zones in the order of their names from a name on, "" for the first, until
// it returns false.
func (r *Route53) hosted(ctx context.Context, from string, yield func(types.HostedZone) bool) error {
	in := &route53.ListHostedZonesByNameInput{}
	if from != "" {
		in.DNSName = &from
	}
	for range maxPages {
		out, err := r.api.ListHostedZonesByName(ctx, in)
		if err != nil {
			return amazonError("list the hosted zones", err)
		}
		for _, z := range out.HostedZones {
			if (z.Config == nil || !z.Config.PrivateZone) && !yield(z) {
				return nil
			}
		}
		if !out.IsTruncated {
			return nil
		}
		in.DNSName, in.HostedZoneId = out.NextDNSName, out.NextHostedZoneId
	}
	return fmt.Errorf("there are more than %d pages of hosted zones: set tls.acme.dns.zone", maxPages)
}

// ListZones returns the public zones.
func (r *Route53) ListZones(ctx context.Context) (all []libdns.Zone, err error) {
	err = r.hosted(ctx, "", func(z types.HostedZone) bool {
		all = append(all, libdns.Zone{Name: aws.ToString(z.Name)})
		return true
	})
	return all, err
}

// zoneID finds a public zone by its name.
func (r *Route53) zoneID(ctx context.Context, name string) (string, error) {
	var ids []string
	err := r.hosted(ctx, canonical(name), func(z types.HostedZone) bool {
		same := canonical(aws.ToString(z.Name)) == canonical(name)
		if same {
			ids = append(ids, strings.TrimPrefix(aws.ToString(z.Id), "/hostedzone/"))
		}
		return same
	})
	switch {
	case err != nil:
		return "", err
	case len(ids) == 0:
		return "", fmt.Errorf("Route 53 has no public hosted zone %s in this account", name)
	case len(ids) > 1:
		return "", fmt.Errorf("Route 53 has %d public hosted zones %s in this account (%s): remove those that the domain is not delegated to", len(ids), name, strings.Join(ids, ", "))
	}
	return ids[0], nil
}

// AppendRecords adds TXT records to what there is under their names, and returns when all name servers of Amazon's have
// them, or should by now.
func (r *Route53) AppendRecords(ctx context.Context, zone string, recs []libdns.Record) ([]libdns.Record, error) {
	id, err := r.zoneID(ctx, zone)
	if err != nil {
		return nil, err
	}
	return each(zone, recs, func(t text) (bool, error) {
		change, err := r.edit(ctx, id, t, func(values []string) []string {
			if slices.Contains(values, t.quoted()) {
				return values
			}
			return append(slices.Clip(values), t.quoted())
		})
		if err == nil && change != "" {
			err = r.spread(ctx, change)
		}
		return err == nil, err
	})
}

// DeleteRecords removes TXT records of just these values, whatever their TTL, and leaves others under their names.
func (r *Route53) DeleteRecords(ctx context.Context, zone string, recs []libdns.Record) ([]libdns.Record, error) {
	id, err := r.zoneID(ctx, zone)
	if err != nil {
		return nil, err
	}
	return each(zone, recs, func(t text) (bool, error) {
		change, err := r.edit(ctx, id, t, func(values []string) []string {
			return slices.DeleteFunc(slices.Clone(values), func(v string) bool { return v == t.quoted() })
		})
		return change != "", err
	})
}

// edit changes the values under a name and returns the ID of the change, "" if there is nothing to change. It takes the set as
// it was away and puts another one in its place, at once: that fails if somebody else has changed it
// meanwhile, while the "upsert" of the API would undo what they did.
func (r *Route53) edit(ctx context.Context, id string, t text, to func(values []string) []string) (change string, err error) {
	for n := 1; ; n++ {
		old, err := r.set(ctx, id, t.name)
		if err != nil {
			return "", err
		}
		changes := changesOf(old, t, to)
		if len(changes) == 0 {
			return "", nil
		}
		out, err := r.api.ChangeResourceRecordSets(ctx, &route53.ChangeResourceRecordSetsInput{
			HostedZoneId: &id, ChangeBatch: &types.ChangeBatch{Changes: changes, Comment: aws.String("by heddle, to prove the name to a certificate authority")},
		})
		var refused *types.InvalidChangeBatch
		switch {
		case errors.As(err, &refused) && n < edits:
			continue
		case err != nil:
			return "", amazonError("change the records "+t.name, err)
		}
		return aws.ToString(out.ChangeInfo.Id), nil
	}
}

// set is what there is of TXT records under a name; nil if there is nothing.
func (r *Route53) set(ctx context.Context, id, name string) (*types.ResourceRecordSet, error) {
	out, err := r.api.ListResourceRecordSets(ctx, &route53.ListResourceRecordSetsInput{
		HostedZoneId: &id, StartRecordName: &name, StartRecordType: types.RRTypeTxt, MaxItems: aws.Int32(1),
	})
	if err != nil {
		return nil, amazonError("read the records "+name, err)
	}
	if len(out.ResourceRecordSets) == 0 {
		return nil, nil
	}
	first := out.ResourceRecordSets[0] // the next one in order, if there is none of that name
	switch {
	case canonical(aws.ToString(first.Name)) != name || first.Type != types.RRTypeTxt:
		return nil, nil
	case first.SetIdentifier != nil || first.AliasTarget != nil:
		return nil, fmt.Errorf("the records %s in Route 53 have a routing policy or are an alias: remove them, nothing else needs them", name)
	}
	return &first, nil
}

// changesOf is what takes the set old, nil for none, to the values that to makes of its own. All are in quotes.
func changesOf(old *types.ResourceRecordSet, t text, to func([]string) []string) (changes []types.Change) {
	var had []string
	next := types.ResourceRecordSet{Name: aws.String(t.name + "."), Type: types.RRTypeTxt, TTL: aws.Int64(int64(t.ttl / time.Second))}
	if old != nil {
		next = *old
		for _, v := range old.ResourceRecords {
			had = append(had, aws.ToString(v.Value))
		}
	}
	values := to(had)
	if slices.Equal(values, had) {
		return nil
	}
	next.ResourceRecords = nil
	for _, v := range values {
		next.ResourceRecords = append(next.ResourceRecords, types.ResourceRecord{Value: &v})
	}
	if old != nil {
		changes = append(changes, types.Change{Action: types.ChangeActionDelete, ResourceRecordSet: old})
	}
	if len(values) > 0 {
		changes = append(changes, types.Change{Action: types.ChangeActionCreate, ResourceRecordSet: &next})
	}
	return changes
}

// spread waits until a change is on all name servers of Amazon's, but not for ever: most have it early.
func (r *Route53) spread(parent context.Context, change string) error {
	ctx, cancel := context.WithTimeout(parent, spreadIn)
	defer cancel()
	for pause := spreadFirst; ; pause = min(2*pause, spreadEvery) {
		wait := time.NewTimer(pause)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return parent.Err()
		}
		out, err := r.api.GetChange(ctx, &route53.GetChangeInput{Id: &change})
		switch {
		case err == nil && out.ChangeInfo.Status == types.ChangeStatusInsync:
			return nil
		case err != nil && ctx.Err() == nil:
			return amazonError("ask for the state of the change", err)
		}
	}
}

// advice is what to do about an error of Route 53, by its code.
var advice = map[string]string{
	"AccessDenied":                "give the key or role the rights that docs/tls.md lists",
	"AccessDeniedException":       "give the key or role the rights that docs/tls.md lists",
	"InvalidClientTokenId":        "check the access key: Amazon does not know it",
	"SignatureDoesNotMatch":       "check the secret access key, and this machine's clock",
	"ExpiredToken":                "get new credentials, or let a role give them",
	"Throttling":                  "other programs use up the account's five requests a second; heddle tries again later",
	"PriorRequestNotComplete":     "other changes of the zone are under way; heddle tries again later",
	"NoSuchHostedZone":            "it was removed just now; check tls.acme.dns.zone",
	"UnrecognizedClientException": "check the access key: Amazon does not know it",
}

// amazonError says what failed for the person who can act on it.
func amazonError(doing string, err error) error {
	var told smithy.APIError
	var answer *awshttp.ResponseError
	switch {
	case !errors.As(err, &told):
		return fmt.Errorf("cannot %s in Route 53: %w", doing, err)
	case told.ErrorCode() == "UnknownError" && errors.As(err, &answer):
		return fmt.Errorf("cannot %s in Route 53: the answer is %d %s, and not what the API sends: is there a proxy in between?",
			doing, answer.HTTPStatusCode(), http.StatusText(answer.HTTPStatusCode()))
	}
	said := fmt.Sprintf("cannot %s in Route 53: %.500s (%s)", doing, told.ErrorMessage(), told.ErrorCode())
	var batch *types.InvalidChangeBatch
	if errors.As(err, &batch) && len(batch.Messages) > 0 {
		said += fmt.Sprintf(": %.500s", strings.Join(batch.Messages, "; "))
	}
	if next := advice[told.ErrorCode()]; next != "" {
		said += ": " + next
	}
	return errors.New(said)
}
