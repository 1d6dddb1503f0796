package api

import (
	"context"
	"fmt"
	"strconv"

	"heddle/api/explain"
	"heddle/api/rest"
	"heddle/api/wire"
	"heddle/control/tailnet"
	"heddle/policy"
	v1 "heddle/proto/heddle/v1"
)

// PolicyFile is a file that fixes the policy.
type PolicyFile struct {
	Path string
	// Refused returns the content of the file and what is wrong with it; nil if
	// it is in force. The content is nil if the file cannot be read.
	Refused func() ([]byte, error)
}

// History are the policies that a tailnet had. It is a part of package db,
// whose documentation says what the parameters mean.
type History interface {
	Policies(ctx context.Context, tailnet string, limit int, before int64) (page []tailnet.PolicyVersion, next int64, err error)
	Policy(ctx context.Context, tailnet string, revision int64, etag string) (*tailnet.Policy, error)
}

type policies struct {
	*Server
	v1.UnimplementedPolicyServiceServer
}

func (s policies) GetPolicy(ctx context.Context, req *v1.GetPolicyRequest) (*v1.GetPolicyResponse, error) {
	p := s.snapshot().Policy()
	if req.GetVersion() != "" {
		var err error
		if p, err = s.version(ctx, req.GetVersion()); err != nil {
			return nil, err
		}
	}
	out := &v1.GetPolicyResponse{
		Policy: p.Source, UpdatedAt: wire.Time(p.Updated), Etag: p.ETag, UpdatedBy: p.By, Revision: uint64(p.Revision),
		Refused: refusal(fmt.Sprintf("parts of the policy (revision %d) are refused by this version of heddle and left out, so that less is allowed than it says; set it again", p.Revision), []byte(p.Source), p.Err),
	}
	if f := s.opts.PolicyFile(); f != nil && req.GetVersion() == "" {
		out.File = f.Path
		if text, err := f.Refused(); err != nil {
			out.Refused = refusal("the last edit of "+f.Path+" is refused; the policy before it stays in force", text, err)
		}
	}
	return out, nil
}

// refusal makes what people are told of a policy that is not followed; nil if err is nil.
func refusal(msg string, source []byte, err error) *v1.PolicyRefusal {
	if err == nil {
		return nil
	}
	out := &v1.PolicyRefusal{Message: msg, Problems: problemsOf(err)}
	for _, p := range out.Problems {
		p.Excerpt = (&policy.Error{Line: int(p.GetLine()), Column: int(p.GetColumn())}).Excerpt(source)
	}
	if out.Problems == nil {
		out.Message += ": " + tailnet.Message(err)
	}
	return out
}

func (s policies) SetPolicy(ctx context.Context, req *v1.SetPolicyRequest) (*v1.SetPolicyResponse, error) {
	r, err := s.setPolicy(ctx, req.GetPolicy(), req.GetIfMatch(), req.GetDryRun())
	if err != nil {
		return nil, err
	}
	return &v1.SetPolicyResponse{
		Policy: r.Source, UpdatedAt: wire.Time(r.Updated), Etag: r.ETag, Revision: uint64(r.Revision), Warnings: r.warnings, Impact: r.impact,
	}, nil
}

func (s policies) RollbackPolicy(ctx context.Context, req *v1.RollbackPolicyRequest) (*v1.RollbackPolicyResponse, error) {
	if req.GetVersion() == "" {
		return nil, tailnet.Errorf(tailnet.Invalid, "which policy? Give a revision or an etag of `heddle policy history`")
	}
	if err := s.fromFile(req.GetDryRun()); err != nil {
		return nil, err
	}
	old, err := s.version(ctx, req.GetVersion())
	if err != nil {
		return nil, err
	}
	r, err := s.setPolicy(ctx, old.Source, req.GetIfMatch(), req.GetDryRun())
	if err != nil {
		return nil, err
	}
	return &v1.RollbackPolicyResponse{
		FromRevision: uint64(old.Revision), UpdatedAt: wire.Time(r.Updated), Etag: r.ETag, Revision: uint64(r.Revision), Warnings: r.warnings, Impact: r.impact,
	}, nil
}

// outcome is the policy in force after it was set, or was to be.
type outcome struct {
	*tailnet.Policy
	warnings []*v1.PolicyProblem
	impact   *v1.PolicyImpact // of a dry run
}

// fromFile refuses to set the policy if it comes from a file.
func (s policies) fromFile(dry bool) error {
	if f := s.opts.PolicyFile(); f != nil && !dry {
		return tailnet.Errorf(tailnet.Conflict, "the policy comes from %s (policy.path in the config): edit that file instead", f.Path)
	}
	return nil
}

func (s policies) setPolicy(ctx context.Context, source, ifMatch string, dry bool) (*outcome, error) {
	if err := s.fromFile(dry); err != nil {
		return nil, err
	}
	done, err := s.busy(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if !dry {
		p, snap, err := s.opts.State.PutPolicy(ctx, actorOf(ctx), source, ifMatch)
		if err != nil {
			return nil, err
		}
		return &outcome{Policy: snap.Policy(), warnings: protoProblems(p.Warnings)}, nil
	}
	snap := s.snapshot()
	if err := snap.Policy().Matches(ifMatch); err != nil {
		return nil, err
	}
	p, err := tailnet.PreparePolicy(snap, source)
	if err != nil {
		return nil, err
	}
	return &outcome{Policy: snap.Policy(), warnings: protoProblems(p.Warnings), impact: explain.Impact(snap, p)}, nil
}

func (s policies) CheckPolicy(ctx context.Context, req *v1.CheckPolicyRequest) (*v1.CheckPolicyResponse, error) {
	done, err := s.busy(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	prepared, err := tailnet.PreparePolicy(s.snapshot(), req.GetPolicy())
	if err != nil {
		return nil, err
	}
	return &v1.CheckPolicyResponse{Warnings: protoProblems(prepared.Warnings)}, nil
}

// busy waits for a turn to do work that takes long; done ends it.
func (s *Server) busy(ctx context.Context) (done func(), err error) {
	return s.gate.Working(ctx, actorOf(ctx))
}

const (
	maxVersions = 50 // of a page
	minETag     = 8  // digits that are enough to name one
)

func (s policies) ListPolicies(ctx context.Context, req *v1.ListPoliciesRequest) (*v1.ListPoliciesResponse, error) {
	before := int64(0)
	if t := req.GetPageToken(); t != "" {
		var err error
		if before, err = strconv.ParseInt(t, 36, 64); err != nil || before <= 0 {
			return nil, tailnet.Errorf(tailnet.Invalid, "page_token %q is not from an earlier response", t)
		}
	}
	size := int(req.GetPageSize())
	if size == 0 || size > maxVersions {
		size = maxVersions
	}
	page, next, err := s.past(ctx, size, before)
	if err != nil {
		return nil, err
	}
	out := &v1.ListPoliciesResponse{}
	now := s.snapshot().Policy().Revision
	for _, p := range page {
		out.Versions = append(out.Versions, &v1.PolicyVersion{
			Revision: uint64(p.Revision), Etag: p.ETag, UpdatedAt: wire.Time(p.Updated), UpdatedBy: p.By,
			Size: uint32(p.Size), Current: p.Revision == now,
		})
	}
	if next > 0 {
		out.NextPageToken = strconv.FormatInt(next, 36)
	}
	return out, nil
}

// past returns versions of the policy. It takes a turn: the texts are passed
// over, but that is reading too.
func (s policies) past(ctx context.Context, limit int, before int64) ([]tailnet.PolicyVersion, int64, error) {
	if s.opts.History == nil {
		return nil, 0, nil
	}
	done, err := s.busy(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer done()
	return s.opts.History.Policies(ctx, tailnet.Default, limit, before)
}

// version finds a policy by its revision, or by its etag or the beginning of
// it; the newest one, if it was in force several times.
func (s policies) version(ctx context.Context, ref string) (*tailnet.Policy, error) {
	if s.opts.History != nil {
		done, err := s.busy(ctx)
		if err != nil {
			return nil, err
		}
		defer done()
		if n, err := strconv.ParseInt(ref, 10, 64); err == nil && n > 0 {
			if p, err := s.opts.History.Policy(ctx, tailnet.Default, n, ""); p != nil || err != nil {
				return p, err
			}
		}
		if len(ref) >= minETag {
			if p, err := s.opts.History.Policy(ctx, tailnet.Default, 0, ref); p != nil || err != nil {
				return p, err
			}
		}
	}
	return nil, tailnet.Errorf(tailnet.NotFound, "no policy with the revision or etag %q; `heddle policy history` lists them", ref)
}

// protoProblems returns problems for the wire, at most maxProblems.
func protoProblems(all policy.Errors) []*v1.PolicyProblem {
	out := make([]*v1.PolicyProblem, 0, len(all))
	for _, e := range all[:min(len(all), maxProblems)] {
		out = append(out, &v1.PolicyProblem{Line: uint32(e.Line), Column: uint32(e.Column), Message: rest.Redact(e.Msg)})
	}
	return out
}

func (s policies) ExplainPolicy(ctx context.Context, req *v1.ExplainPolicyRequest) (*v1.ExplainPolicyResponse, error) {
	done, err := s.busy(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	snap := s.snapshot()
	compiled, source, err := chosen(snap, req.GetPolicy())
	if err != nil {
		return nil, err
	}
	return explain.Flows(ctx, snap, compiled, source, req)
}

func (s policies) PreviewPolicy(ctx context.Context, req *v1.PreviewPolicyRequest) (*v1.PreviewPolicyResponse, error) {
	done, err := s.busy(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	snap := s.snapshot()
	n, err := snap.ParseNodeRef(req.GetNode())
	if err != nil {
		return nil, err
	}
	compiled, _, err := chosen(snap, req.GetPolicy())
	if err != nil {
		return nil, err
	}
	return explain.Node(ctx, snap, compiled, n)
}

// chosen returns the policy that a question is about, and its text: the given
// one, or the one in force.
func chosen(snap *tailnet.Snapshot, source string) (*policy.Compiled, string, error) {
	if source == "" {
		return snap.Policy().Compiled, snap.Policy().Source, nil
	}
	p, err := tailnet.PreparePolicy(snap, source)
	if err != nil {
		return nil, "", err
	}
	return p.Compiled, source, nil
}
