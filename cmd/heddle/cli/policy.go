package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"heddle/cmd/heddle/cli/show"
	"heddle/policy"
	"heddle/policy/conformance"
	v1 "heddle/proto/heddle/v1"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// maxPolicy is the largest policy that the server takes.
const maxPolicy = 4 << 20

func (a *app) policyCommand() *cobra.Command {
	g := group("policy", "Who may reach what", a.policyGet(), a.policySet(), a.policyCheck(), a.policyExplain(), a.policyPreview(),
		a.policyHistory(), a.policyDiff(), a.policyRollback(), a.policyCompile())
	g.Aliases = []string{"acl"}
	return g
}

func (a *app) policies() (v1.PolicyServiceClient, error) {
	conn, err := a.server()
	if err != nil {
		return nil, err
	}
	return v1.NewPolicyServiceClient(conn), nil
}

func (a *app) policyGet() *cobra.Command {
	return &cobra.Command{
		Use:     "get [VERSION]",
		Aliases: []string{"show"},
		Short:   "Print the policy in force, as it was written, or an earlier one",
		Example: "  heddle policy get > policy.hujson\n  heddle policy get -o json\n  heddle policy get 17",
		Args:    args(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.policies()
			if err != nil {
				return err
			}
			resp, err := c.GetPolicy(cmd.Context(), &v1.GetPolicyRequest{Version: append(args, "")[0]})
			if err != nil {
				return err
			}
			if resp.GetPolicy() == "" {
				a.hint("No policy is set: everything is allowed.")
			}
			a.tellOrigin(resp)
			return a.show(resp, func() { fmt.Fprint(a.out, resp.GetPolicy()) })
		},
	}
}

// tellOrigin says where the policy comes from, if it is from a file, and what is
// refused at present.
func (a *app) tellOrigin(p *v1.GetPolicyResponse) {
	if p.GetFile() != "" {
		a.hint("The policy comes from the file %s.", p.GetFile())
	}
	r := p.GetRefused()
	if r == nil {
		return
	}
	a.hint("warning: %s", r.GetMessage())
	for _, problem := range r.GetProblems() {
		a.hint("line %d, column %d: %s", problem.GetLine(), problem.GetColumn(), problem.GetMessage())
		fmt.Fprint(a.err, show.Clean(problem.GetExcerpt()))
	}
}

func (a *app) policySet() *cobra.Command {
	req := &v1.SetPolicyRequest{}
	cmd := &cobra.Command{
		Use:     "set FILE",
		Aliases: []string{"put"},
		Short:   "Replace the policy by a file (- is the standard input)",
		Long: `Replaces the policy by a file (- is the standard input), if it is good and its own
tests pass with the tailnet's users and nodes.`,
		Example: "  heddle policy set policy.hujson\n  heddle policy set policy.hujson --dry-run\n  generate-policy | heddle policy set -",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := a.readPolicy(args[0])
			if err != nil {
				return err
			}
			c, err := a.policies()
			if err != nil {
				return err
			}
			req.Policy = string(src)
			resp, err := c.SetPolicy(cmd.Context(), req)
			if problems := problemsOf(err); problems != nil {
				return a.showProblems(args[0], src, problems)
			}
			if status.Code(err) == codes.FailedPrecondition { // maybe there is more to say about the file
				if now, getErr := c.GetPolicy(cmd.Context(), &v1.GetPolicyRequest{}); getErr == nil && now.GetFile() != "" {
					a.tellOrigin(now)
				}
			}
			if err != nil {
				return err
			}
			a.warn(args[0], src, resp.GetWarnings())
			if req.DryRun {
				return a.showImpact(resp, resp.GetImpact())
			}
			return a.done(resp, "the policy is in force (revision %d, etag %s)", resp.GetRevision(), resp.GetEtag())
		},
	}
	cmd.Flags().StringVar(&req.IfMatch, "if-match", "", "only if the policy in force has that `etag` (see policy get -o json)")
	cmd.Flags().BoolVar(&req.DryRun, "dry-run", false, "only say what would change")
	return cmd
}

// showImpact shows what a policy would change; m is the whole answer.
func (a *app) showImpact(m proto.Message, p *v1.PolicyImpact) error {
	return a.show(m, func() {
		t := show.NewTable("SOURCES", "DESTINATIONS", "GAIN", "LOSE")
		t.Whole = true
		for _, c := range p.GetChanges() {
			from := nodesText(c.GetSources())
			if c.GetRelation() != "" {
				from += " (" + c.GetRelation() + ")"
			}
			t.Add(from, nodesText(c.GetDestinations()), show.In(show.Green, or(strings.Join(c.GetGained(), ", "))), show.In(show.Red, or(strings.Join(c.GetLost(), ", "))))
		}
		if t.Len() > 0 {
			a.print(t)
		}
		if n := p.GetOmitted(); n > 0 {
			a.say("… and %d more changes", n)
		}
		if p.GetPartial() {
			a.say("There is too much to compare: there may be more changes.")
		}
		if c := p.GetCapabilities(); c.GetCount() > 0 {
			a.say("Other capabilities: %s", nodesText(c))
		}
		for _, r := range p.GetApprovals() {
			a.say("Would be approved: %s", r)
		}
		if t.Len()+len(p.GetApprovals()) == 0 && p.GetCapabilities().GetCount() == 0 && !p.GetPartial() {
			a.say("The policy is good, and nobody would gain or lose access.")
		}
	})
}

func nodesText(n *v1.PolicyNodes) string { return listText(n.GetNames(), n.GetCount()) }

// warn tells what a policy asks for and does not get.
func (a *app) warn(name string, src []byte, warnings []*v1.PolicyProblem) {
	for _, w := range warnings {
		a.showProblem("warning: "+name, src, w)
	}
}

func (a *app) showProblem(name string, src []byte, p *v1.PolicyProblem) {
	e := policy.Error{Line: int(p.GetLine()), Column: int(p.GetColumn()), Msg: p.GetMessage()}
	if e.Line == 0 {
		a.hint("%s: %s", name, e.Msg)
		return
	}
	a.hint("%s:%d:%d: %s", name, e.Line, e.Column, e.Msg)
	fmt.Fprint(a.err, show.Clean(e.Excerpt(src)))
}

func (a *app) readPolicy(name string) ([]byte, error) {
	src, err := readBounded(name, a.in, maxPolicy)
	if err != nil {
		return nil, fmt.Errorf("cannot read the policy: %w", err)
	}
	return src, nil
}

func (a *app) policyCheck() *cobra.Command {
	var offline bool
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Say what is wrong with a policy, and change nothing",
		Long: `Says what is wrong with a policy, and changes nothing. The server also runs the
policy's own tests with the tailnet's users and nodes; if none answers, the text alone
is checked.`,
		Example: "  heddle policy check policy.hujson\n  heddle policy check --offline policy.hujson",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := a.readPolicy(args[0])
			if err != nil {
				return err
			}
			resp, err := a.check(cmd.Context(), src, offline)
			if problems := problemsOf(err); problems != nil {
				return a.showProblems(args[0], src, problems)
			}
			if err != nil {
				return err
			}
			a.warn(args[0], src, resp.GetWarnings())
			return a.done(resp, "the policy is good")
		},
	}
	cmd.Flags().BoolVar(&offline, "offline", false, "do not ask the server")
	return cmd
}

func (a *app) policyCompile() *cobra.Command {
	return &cobra.Command{
		Use:   "compile",
		Short: "Say what nodes would be sent because of a policy, as JSON",
		Long: `Reads documents of a policy and the state of a tailnet, one JSON object a line,
and prints for each what its nodes would be sent. It asks no server.`,
		Example: "  heddle policy compile < cases.jsonl > answers.jsonl",
		Args:    args(0, 0),
		RunE:    func(*cobra.Command, []string) error { return conformance.Run(a.in, a.out) },
	}
}

// check asks the server; if that is not wanted, or none answers on its socket, it
// checks the text alone.
func (a *app) check(ctx context.Context, src []byte, offline bool) (*v1.CheckPolicyResponse, error) {
	if !offline {
		c, err := a.policies()
		if err != nil {
			return nil, err
		}
		resp, err := c.CheckPolicy(ctx, &v1.CheckPolicyRequest{Policy: string(src)})
		if !a.dial.explains(err) || !errors.Is(a.dial.last(), errNoServer) {
			return resp, err
		}
		a.hint("No server answers: the policy is checked without the tailnet's users and nodes.")
	}
	return &v1.CheckPolicyResponse{}, checkOffline(src)
}

// checkOffline returns the error that a server would.
func checkOffline(src []byte) error {
	_, err := policy.Parse(src)
	var all policy.Errors
	if !errors.As(err, &all) {
		return err
	}
	problems := &v1.PolicyProblems{}
	for _, e := range all {
		problems.Problems = append(problems.Problems, &v1.PolicyProblem{Line: uint32(e.Line), Column: uint32(e.Column), Message: e.Msg})
	}
	st, _ := status.New(codes.InvalidArgument, "the policy is not valid").WithDetails(problems) // fails only for OK
	return st.Err()
}

// showProblems shows each problem with its place in the file, and returns the
// error that sums them up. As JSON or YAML they are the output.
func (a *app) showProblems(name string, src []byte, problems []*v1.PolicyProblem) error {
	if a.flags.output != formatTable {
		if err := a.show(&v1.PolicyProblems{Problems: problems}, nil); err != nil {
			return err
		}
	} else {
		for _, p := range problems {
			a.showProblem(name, src, p)
		}
	}
	if len(problems) == 1 {
		return status.Error(codes.InvalidArgument, "the policy has a problem")
	}
	return status.Errorf(codes.InvalidArgument, "the policy has %d problems", len(problems))
}
