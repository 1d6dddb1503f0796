package api

import v1 "heddle/proto/heddle/v1"

type settings struct {
	*Server
	v1.UnimplementedSettingsServiceServer
}
