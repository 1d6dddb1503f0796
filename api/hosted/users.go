package hosted

import (
	"strconv"
	"time"

	"heddle/control/tailnet"
	"heddle/policy"

	"github.com/go-chi/chi/v5"
)

type user struct {
	ID                 string     `json:"id"`
	DisplayName        string     `json:"displayName"`
	LoginName          string     `json:"loginName"`
	ProfilePicURL      string     `json:"profilePicUrl"`
	TailnetID          string     `json:"tailnetId"`
	Created            time.Time  `json:"created"`
	Type               string     `json:"type"`
	Role               string     `json:"role"`
	Status             string     `json:"status"`
	DeviceCount        int        `json:"deviceCount"`
	LastSeen           *time.Time `json:"lastSeen,omitempty"`
	CurrentlyConnected bool       `json:"currentlyConnected"`
}

func (s *Server) userRoutes(r chi.Router) {
	write := tailnet.Write(tailnet.AreaUsers)
	r.Get("/users/{user}", s.admin(tailnet.Read(tailnet.AreaUsers), s.getUser))
	for path, change := range map[string]func(*tailnet.Tx, tailnet.UserID) error{
		"approve": (*tailnet.Tx).ApproveUser, "suspend": (*tailnet.Tx).SuspendUser,
		"restore": (*tailnet.Tx).RestoreUser, "delete": (*tailnet.Tx).DeleteUser,
	} {
		r.Post("/users/{user}/"+path, s.admin(write, s.changeUser(change)))
	}
	r.Post("/users/{user}/role", s.admin(write, func(c *call) (any, error) {
		var req struct {
			Role policy.Role `json:"role"`
		}
		if err := c.body(&req); err != nil {
			return nil, err
		}
		return s.changeUser(func(tx *tailnet.Tx, id tailnet.UserID) error { return tx.SetRole(id, req.Role) })(c)
	}))
}

func (s *Server) changeUser(change func(*tailnet.Tx, tailnet.UserID) error) handler {
	return func(c *call) (any, error) {
		u, err := c.user()
		if err != nil {
			return nil, err
		}
		_, err = c.update(func(tx *tailnet.Tx) error { return change(tx, u.ID) })
		return nil, err
	}
}

func (c *call) user() (*tailnet.User, error) {
	id := chi.URLParam(c.Request, "user")
	number, _ := strconv.ParseInt(id, 10, 64) // nobody has the ID 0
	if u := c.snapshot().User(tailnet.UserID(number)); u != nil {
		return u, nil
	}
	return nil, tailnet.Errorf(tailnet.NotFound, "there is no user with the ID %.40q", id)
}

func (s *Server) getUser(c *call) (any, error) {
	u, err := c.user()
	if err != nil {
		return nil, err
	}
	for _, out := range usersOf(c.snapshot(), func(other *tailnet.User) bool { return other.ID == u.ID }) {
		return out, nil
	}
	return nil, tailnet.Errorf(tailnet.NotFound, "the user was removed in the same moment")
}

func (s *Server) listUsers(c *call) (any, error) {
	q := c.URL.Query()
	return map[string][]*user{"users": usersOf(c.snapshot(), func(u *tailnet.User) bool {
		return (q.Get("role") == "" || q.Get("role") == string(u.Role)) && (q.Get("type") == "" || q.Get("type") == "member")
	})}, nil
}

// usersOf lists users with what their devices say.
func usersOf(s *tailnet.Snapshot, want func(*tailnet.User) bool) []*user {
	users := []*user{}
	byID := map[tailnet.UserID]*user{}
	for u := range s.Users() {
		if !want(u) {
			continue
		}
		out := &user{
			ID: u.ID.String(), DisplayName: u.Title(), LoginName: u.Login(), ProfilePicURL: u.PictureURL, TailnetID: tailnet.Default,
			Created: u.Created.UTC(), Type: "member", Role: string(u.Role), Status: string(u.Status),
		}
		users, byID[u.ID] = append(users, out), out
	}
	for n := range s.Nodes() {
		u := byID[n.Owner]
		if u == nil {
			continue
		}
		u.DeviceCount++
		u.CurrentlyConnected = u.CurrentlyConnected || n.Status.Online
		if seen := stamp(n.Status.LastSeen); seen != nil && (u.LastSeen == nil || u.LastSeen.Before(*seen)) {
			u.LastSeen = seen
		}
	}
	return users
}
