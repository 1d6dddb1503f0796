// Package people owns the commands about people and what waits for them: users, their roles
// and identities, devices that need approval, logins, and the settings that say
// who may join. It refuses to know how the server is reached and how output is chosen.
package people

import (
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"heddle/cmd/heddle/cli/complete"
	"heddle/cmd/heddle/cli/habits"
	"heddle/cmd/heddle/cli/show"
	v1 "heddle/proto/heddle/v1"
)

// Tools are what the commands need of the command line around them.
type Tools struct {
	Server func() (*grpc.ClientConn, error)
	Names  complete.Server
	// Show prints an object as text, JSON or YAML, Done a sentence or the object, List a list or the
	// hint for an empty one.
	Show func(m proto.Message, text func()) error
	Done func(m proto.Message, format string, args ...any) error
	List func(list []proto.Message, hint string, table func()) error
	// Table prints a table, Hint a line that is not part of the output.
	Table func(*show.Table)
	Hint  func(format string, args ...any)
	// Since is a time as people count it.
	Since func(t *timestamppb.Timestamp, unset string) string
	Args  func(min, max int) cobra.PositionalArgs
	Usage func(format string, args ...any) error // an error of the command line
	Group func(use, short string, commands ...*cobra.Command) *cobra.Command
	// Confirm adds --yes to a command that deletes. possible fails if somebody would have to be asked
	// and nobody is there.
	Confirm func(*cobra.Command) (possible func() error, ask func(format string, args ...any) error)
}

// takesUser is for a command whose first argument is a user.
func (t Tools) takesUser(cmd *cobra.Command) *cobra.Command {
	cmd.ValidArgsFunction = complete.First(t.Names.Users())
	return habits.First(habits.First(cmd, "name", "n"), "identifier", "i")
}

// takesNode is for a command whose first argument is a node.
func (t Tools) takesNode(cmd *cobra.Command) *cobra.Command {
	cmd.ValidArgsFunction = complete.First(t.Names.Nodes())
	return habits.First(cmd, "identifier", "i")
}

func (t Tools) users() (v1.UserServiceClient, error) {
	conn, err := t.Server()
	if err != nil {
		return nil, err
	}
	return v1.NewUserServiceClient(conn), nil
}

func (t Tools) nodes() (v1.NodeServiceClient, error) {
	conn, err := t.Server()
	if err != nil {
		return nil, err
	}
	return v1.NewNodeServiceClient(conn), nil
}

func (t Tools) auth() (v1.AuthServiceClient, error) {
	conn, err := t.Server()
	if err != nil {
		return nil, err
	}
	return v1.NewAuthServiceClient(conn), nil
}

// messages is a list as List wants it.
func messages[M proto.Message](list []M) []proto.Message {
	out := make([]proto.Message, len(list))
	for i, m := range list {
		out[i] = m
	}
	return out
}

// or returns s, or - if it is empty.
func or(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// lines lists texts, or - if there are none.
func lines(texts []string) string { return or(strings.Join(texts, ", ")) }
