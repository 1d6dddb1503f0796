package cli

import (
	"errors"
	"fmt"

	"heddle/policy"
	"heddle/policy/conformance"
	v1 "heddle/proto/heddle/v1"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxPolicy is the largest policy that the server takes.
const maxPolicy = 4 << 20

func (a *app) policyCommand() *cobra.Command {
	g := group("policy", "Who may reach what", a.policyGet(), a.policySet(), a.policyCheck(), a.policyCompile())
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
		Use:     "get",
		Aliases: []string{"show"},
		Short:   "Print the policy in force, as it was written",
		Example: "  heddle policy get > policy.hujson\n  heddle policy get -o json",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.policies()
			if err != nil {
				return err
			}
			resp, err := c.GetPolicy(cmd.Context(), &v1.GetPolicyRequest{})
			if err != nil {
				return err
			}
			if resp.GetPolicy() == "" {
				a.hint("No policy is set: everything is allowed.")
			}
			return a.show(resp, func() { fmt.Fprint(a.out, resp.GetPolicy()) })
		},
	}
}

func (a *app) policySet() *cobra.Command {
	var ifMatch string
	cmd := &cobra.Command{
		Use:     "set FILE",
		Aliases: []string{"put"},
		Short:   "Replace the policy by a file (- is the standard input)",
		Example: "  heddle policy set policy.hujson\n  generate-policy | heddle policy set -",
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
			resp, err := c.SetPolicy(cmd.Context(), &v1.SetPolicyRequest{Policy: string(src), IfMatch: ifMatch})
			if problems := problemsOf(err); problems != nil {
				return a.showProblems(args[0], src, problems)
			}
			if err != nil {
				return err
			}
			return a.done(resp, "the policy is in force (etag %s)", resp.GetEtag())
		},
	}
	cmd.Flags().StringVar(&ifMatch, "if-match", "", "only if the policy in force has that `etag` (see policy get -o json)")
	return cmd
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
			var problems []*v1.PolicyProblem
			if offline {
				problems = checkOffline(src)
			} else if problems, err = a.checkOnline(cmd, src); err != nil {
				return err
			}
			if len(problems) > 0 {
				return a.showProblems(args[0], src, problems)
			}
			return a.done(&v1.CheckPolicyResponse{}, "the policy is good")
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

// checkOnline asks the server; if none answers on its socket it checks the
// text alone.
func (a *app) checkOnline(cmd *cobra.Command, src []byte) ([]*v1.PolicyProblem, error) {
	c, err := a.policies()
	if err != nil {
		return nil, err
	}
	resp, err := c.CheckPolicy(cmd.Context(), &v1.CheckPolicyRequest{Policy: string(src)})
	if a.dial.explains(err) && errors.Is(a.dial.last(), errNoServer) {
		a.hint("No server answers: the policy is checked without the tailnet's users and nodes.")
		return checkOffline(src), nil
	}
	return resp.GetProblems(), err
}

func checkOffline(src []byte) []*v1.PolicyProblem {
	_, err := policy.Parse(src)
	var all policy.Errors
	if errors.As(err, &all) {
		out := make([]*v1.PolicyProblem, 0, len(all))
		for _, e := range all {
			out = append(out, &v1.PolicyProblem{Line: uint32(e.Line), Column: uint32(e.Column), Message: e.Msg})
		}
		return out
	}
	if err != nil {
		return []*v1.PolicyProblem{{Message: err.Error()}}
	}
	return nil
}

// showProblems shows each problem with its place in the file, and returns the
// error that sums them up. As JSON or YAML they are the output.
func (a *app) showProblems(name string, src []byte, problems []*v1.PolicyProblem) error {
	if a.flags.output != formatTable {
		if err := a.show(&v1.CheckPolicyResponse{Problems: problems}, nil); err != nil {
			return err
		}
	} else {
		for _, p := range problems {
			e := policy.Error{Line: int(p.GetLine()), Column: int(p.GetColumn()), Msg: p.GetMessage()}
			if e.Line == 0 {
				a.hint("%s: %s", name, e.Msg)
				continue
			}
			a.hint("%s:%d:%d: %s", name, e.Line, e.Column, e.Msg)
			fmt.Fprint(a.err, clean(e.Excerpt(src)))
		}
	}
	if len(problems) == 1 {
		return status.Error(codes.InvalidArgument, "the policy has a problem")
	}
	return status.Errorf(codes.InvalidArgument, "the policy has %d problems", len(problems))
}
