package tailnet

// DecideSSH records that a person approved or rejected an SSH connection between two nodes, which belong to the
// tailnet. The owner of the source may, and who may change devices; owner is who it was when
// the question was asked.
func (tx *Tx) DecideSSH(source, dest NodeID, owner UserID, login string, approve bool) error {
	src, dst := tx.snap.Node(source), tx.snap.Node(dest)
	if src == nil || dst == nil || src.Owner != owner {
		return Errorf(Conflict, "a device of this connection was removed or changed hands; connect again")
	}
	u := tx.snap.User(tx.actor.User)
	own := tx.actor.Kind == ByUser && u != nil && u.ID == owner && u.Status == UserActive
	if !own {
		if err := tx.may(Write(AreaDevices), "decide about SSH connections from devices of others"); err != nil {
			return err
		}
	}
	action := "ssh.reject"
	if approve {
		action = "ssh.approve"
	}
	tx.audit(action, dst.label(), Change{"source", "", src.label()}, Change{"login", "", login})
	return nil
}
