package hosted

import (
	"cmp"
	"time"

	"heddle/control/tailnet"
)

// settings are those of the hosted service. What heddle has no switch for says how it is, and cannot be
// changed.
type settings struct {
	ACLsExternallyManagedOn                bool   `json:"aclsExternallyManagedOn"`
	ACLsExternalLink                       string `json:"aclsExternalLink"`
	DevicesApprovalOn                      bool   `json:"devicesApprovalOn"`
	DevicesAutoUpdatesOn                   bool   `json:"devicesAutoUpdatesOn"`
	DevicesKeyDurationDays                 int    `json:"devicesKeyDurationDays"`
	UsersApprovalOn                        bool   `json:"usersApprovalOn"`
	UsersRoleAllowedToJoinExternalTailnets string `json:"usersRoleAllowedToJoinExternalTailnets"`
	NetworkFlowLoggingOn                   bool   `json:"networkFlowLoggingOn"`
	RegionalRoutingOn                      bool   `json:"regionalRoutingOn"`
	PostureIdentityCollectionOn            bool   `json:"postureIdentityCollectionOn"`
	HTTPSEnabled                           bool   `json:"httpsEnabled"`
}

const day = 24 * time.Hour

func (s *Server) settingsOf(snap *tailnet.Snapshot) settings {
	a := snap.Settings().Admission
	return settings{
		ACLsExternallyManagedOn: s.PolicyFile() != "", DevicesApprovalOn: a.DeviceApproval, UsersApprovalOn: a.UserApproval,
		DevicesKeyDurationDays:                 int(max(0, cmp.Or(a.KeyExpiry, s.State.KeyExpiry())) / day),
		UsersRoleAllowedToJoinExternalTailnets: "none",
	}
}

func (s *Server) getSettings(c *call) (any, error) { return s.settingsOf(c.snapshot()), nil }

func (s *Server) setSettings(c *call) (any, error) {
	var snap *tailnet.Snapshot
	text, err := c.text()
	if err != nil {
		return nil, err
	}
	snap, err = c.update(func(tx *tailnet.Tx) error {
		was := s.settingsOf(tx.Snapshot())
		is := was
		if err := decode(text, &is); err != nil {
			return err
		}
		fixed := is
		fixed.DevicesApprovalOn, fixed.UsersApprovalOn, fixed.DevicesKeyDurationDays = was.DevicesApprovalOn, was.UsersApprovalOn, was.DevicesKeyDurationDays
		if fixed != was {
			return tailnet.Errorf(tailnet.Invalid, "only devicesApprovalOn, usersApprovalOn and devicesKeyDurationDays can be changed here; the other settings must be left out or as they are")
		}
		a := tx.Snapshot().Settings().Admission
		a.DeviceApproval, a.UserApproval = is.DevicesApprovalOn, is.UsersApprovalOn
		if is.DevicesKeyDurationDays != was.DevicesKeyDurationDays {
			if is.DevicesKeyDurationDays < 1 || is.DevicesKeyDurationDays > 3650 {
				return tailnet.Errorf(tailnet.Invalid, "devicesKeyDurationDays must be 1 to 3650")
			}
			a.KeyExpiry = time.Duration(is.DevicesKeyDurationDays) * day
		}
		return tx.SetAdmission(a)
	})
	if err != nil {
		return nil, err
	}
	return s.settingsOf(snap), nil
}
