package api

import (
	"context"
	"time"

	"heddle/control/tailnet"
	v1 "heddle/proto/heddle/v1"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

type settings struct {
	*Server
	v1.UnimplementedSettingsServiceServer
}

func protoSettings(a tailnet.Admission) *v1.Settings {
	expiry := a.KeyExpiry
	if expiry < 0 {
		expiry = -time.Second // in JSON it is "-1s"
	}
	return &v1.Settings{DeviceApproval: a.DeviceApproval, UserApproval: a.UserApproval, KeyExpiry: durationpb.New(expiry)}
}

func (s settings) GetSettings(context.Context, *v1.GetSettingsRequest) (*v1.GetSettingsResponse, error) {
	now := protoSettings(s.snapshot().Settings().Admission)
	return &v1.GetSettingsResponse{
		Settings: now, Etag: etagOf(now), Fixed: new(fieldmaskpb.FieldMask),
		DefaultKeyExpiry: durationpb.New(s.opts.State.KeyExpiry()),
	}, nil
}

func (s settings) UpdateSettings(ctx context.Context, req *v1.UpdateSettingsRequest) (*v1.UpdateSettingsResponse, error) {
	in := req.GetSettings()
	if len(req.GetUpdateMask().GetPaths()) == 0 {
		return nil, tailnet.Errorf(tailnet.Invalid, "update_mask must name the settings to change")
	}
	snap, err := s.update(ctx, func(tx *tailnet.Tx) error {
		a := tx.Snapshot().Settings().Admission
		if err := matchETag(req.GetIfMatch(), etagOf(protoSettings(a)), "the settings"); err != nil {
			return err
		}
		for _, path := range req.GetUpdateMask().GetPaths() {
			switch path {
			case "device_approval":
				a.DeviceApproval = in.GetDeviceApproval()
			case "user_approval":
				a.UserApproval = in.GetUserApproval()
			case "key_expiry":
				if d := in.GetKeyExpiry(); d != nil && (d.CheckValid() != nil || d.AsDuration()%time.Second != 0) {
					return tailnet.Errorf(tailnet.Invalid, "key_expiry must be a duration of whole seconds")
				}
				a.KeyExpiry = in.GetKeyExpiry().AsDuration()
			default:
				return tailnet.Errorf(tailnet.Invalid, "update_mask: there is no setting %q; there are device_approval, user_approval and key_expiry", path)
			}
		}
		return tx.SetAdmission(a)
	})
	if err != nil {
		return nil, err
	}
	now := protoSettings(snap.Settings().Admission)
	return &v1.UpdateSettingsResponse{Settings: now, Etag: etagOf(now)}, nil
}

func protoContacts(c tailnet.Contacts) *v1.Contacts {
	return &v1.Contacts{Account: c.Account, Support: c.Support, Security: c.Security}
}

func (s settings) GetContacts(context.Context, *v1.GetContactsRequest) (*v1.GetContactsResponse, error) {
	return &v1.GetContactsResponse{Contacts: protoContacts(s.snapshot().Settings().Contacts)}, nil
}

func (s settings) SetContact(ctx context.Context, req *v1.SetContactRequest) (*v1.SetContactResponse, error) {
	snap, err := s.update(ctx, func(tx *tailnet.Tx) error { return tx.SetContact(req.GetKind(), req.GetEmail()) })
	if err != nil {
		return nil, err
	}
	return &v1.SetContactResponse{Contacts: protoContacts(snap.Settings().Contacts)}, nil
}
