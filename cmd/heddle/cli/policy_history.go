package cli

import (
	"encoding/json"
	"fmt"
	"strconv"

	"heddle/cmd/heddle/cli/show"
	"heddle/cmd/heddle/textdiff"
	v1 "heddle/proto/heddle/v1"

	"github.com/spf13/cobra"
)

func (a *app) policyHistory() *cobra.Command {
	limit := 20
	cmd := &cobra.Command{
		Use:     "history",
		Aliases: []string{"log"},
		Short:   "List the policies that there were, newest first",
		Example: "  heddle policy history\n  heddle policy history --limit 100 -o json",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return usagef("--limit %d: give at least 1", limit)
			}
			list, more, err := a.versions(cmd, limit)
			if err != nil {
				return err
			}
			err = showList(a, list, "No policy was ever set: everything is allowed.", func() {
				t := show.NewTable("REVISION", "SET AT", "BY", "BYTES", "ETAG", "")
				for _, v := range list {
					current := show.Cell{}
					if v.GetCurrent() {
						current = show.In(show.Green, "in force")
					}
					t.Add(v.GetRevision(), when(v.GetUpdatedAt(), "-"), or(v.GetUpdatedBy()), v.GetSize(), fmt.Sprintf("%.12s", v.GetEtag()), current)
				}
				a.print(t)
			})
			if err == nil && more {
				a.hint("There are older ones: --limit %d shows more.", 2*limit)
			}
			return err
		},
	}
	cmd.Flags().IntVar(&limit, "limit", limit, "how many at most")
	return cmd
}

// versions returns the newest entries of the history, and whether there are more.
func (a *app) versions(cmd *cobra.Command, limit int) (list []*v1.PolicyVersion, more bool, err error) {
	c, err := a.policies()
	if err != nil {
		return nil, false, err
	}
	for token := ""; ; {
		resp, err := c.ListPolicies(cmd.Context(), &v1.ListPoliciesRequest{PageSize: uint32(min(limit-len(list), 50)), PageToken: token})
		if err != nil {
			return nil, false, err
		}
		list = append(list, resp.GetVersions()...)
		if token = resp.GetNextPageToken(); token == "" || len(list) >= limit {
			return list, token != "", nil
		}
	}
}

func (a *app) policyDiff() *cobra.Command {
	return &cobra.Command{
		Use:   "diff [FROM [TO]]",
		Short: "Show what differs between two policies of the history",
		Long: `Shows what differs between two policies of the history, each named by its
revision or by the first 8 or more digits of its etag. TO is the policy in force
unless it is given, and FROM the one before that.`,
		Example: "  heddle policy diff\n  heddle policy diff 17\n  heddle policy diff 17 42",
		Args:    args(0, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			refs := append(args, "", "")[:2]
			if len(args) == 0 {
				list, _, err := a.versions(cmd, 2)
				if err != nil {
					return err
				}
				if len(list) < 2 {
					a.hint("There is no earlier policy.")
					return nil
				}
				refs[0] = strconv.FormatUint(list[1].GetRevision(), 10)
			}
			c, err := a.policies()
			if err != nil {
				return err
			}
			var sides [2]*v1.GetPolicyResponse
			for i, ref := range refs {
				if sides[i], err = c.GetPolicy(cmd.Context(), &v1.GetPolicyRequest{Version: ref}); err != nil {
					return err
				}
			}
			return a.showDiff(sides[0], sides[1])
		},
	}
}

func (a *app) showDiff(from, to *v1.GetPolicyResponse) error {
	name := func(p *v1.GetPolicyResponse) string {
		return fmt.Sprintf("revision %d\t%s\t%s", p.GetRevision(), when(p.GetUpdatedAt(), "-"), p.GetUpdatedBy())
	}
	diff := textdiff.Unified(name(from), name(to), from.GetPolicy(), to.GetPolicy())
	if a.flags.output == formatTable {
		fmt.Fprint(a.out, show.Clean(diff))
		return nil
	}
	text, err := json.Marshal(struct {
		FromRevision string `json:"fromRevision"` // like all 64-bit numbers in this output
		ToRevision   string `json:"toRevision"`
		Diff         string `json:"diff"`
	}{strconv.FormatUint(from.GetRevision(), 10), strconv.FormatUint(to.GetRevision(), 10), diff})
	if err != nil {
		return err
	}
	return a.encode(text)
}

func (a *app) policyRollback() *cobra.Command {
	req := &v1.RollbackPolicyRequest{}
	cmd := &cobra.Command{
		Use:   "rollback VERSION",
		Short: "Put an earlier policy in force again",
		Long: `Puts an earlier policy in force again, named by its revision or by the first 8
or more digits of its etag. It is checked like any other, and becomes a new entry of the
history.`,
		Example: "  heddle policy rollback 17\n  heddle policy rollback 17 --dry-run",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.policies()
			if err != nil {
				return err
			}
			req.Version = args[0]
			resp, err := c.RollbackPolicy(cmd.Context(), req)
			if problems := problemsOf(err); problems != nil {
				old, err := c.GetPolicy(cmd.Context(), &v1.GetPolicyRequest{Version: args[0]})
				if err != nil {
					return err
				}
				return a.showProblems(fmt.Sprint("revision ", old.GetRevision()), []byte(old.GetPolicy()), problems)
			}
			if err != nil {
				return err
			}
			a.warn(fmt.Sprint("revision ", resp.GetFromRevision()), nil, resp.GetWarnings())
			if req.DryRun {
				return a.showImpact(resp, resp.GetImpact())
			}
			return a.done(resp, "the policy of revision %d is in force again (revision %d, etag %s)", resp.GetFromRevision(), resp.GetRevision(), resp.GetEtag())
		},
	}
	cmd.Flags().StringVar(&req.IfMatch, "if-match", "", "only if the policy in force has that `etag`")
	cmd.Flags().BoolVar(&req.DryRun, "dry-run", false, "only say what would change")
	return cmd
}
