package api

import (
	"context"
	"strings"

	"heddle/api/callers"
	"heddle/control/tailnet"
	v1 "heddle/proto/heddle/v1"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// areas say what one must be allowed to read to use a method at all; empty: any
// valid key will do. Reads are no updates, so this is checked here; whether the caller may also
// change things is decided in the update.
var areas = map[string]tailnet.Area{
	v1.HealthService_Health_FullMethodName:     "",
	v1.HealthService_GetVersion_FullMethodName: "",

	v1.UserService_CreateUser_FullMethodName:     tailnet.AreaUsers,
	v1.UserService_GetUser_FullMethodName:        tailnet.AreaUsers,
	v1.UserService_ListUsers_FullMethodName:      tailnet.AreaUsers,
	v1.UserService_RenameUser_FullMethodName:     tailnet.AreaUsers,
	v1.UserService_DeleteUser_FullMethodName:     tailnet.AreaUsers,
	v1.UserService_ApproveUser_FullMethodName:    tailnet.AreaUsers,
	v1.UserService_SuspendUser_FullMethodName:    tailnet.AreaUsers,
	v1.UserService_RestoreUser_FullMethodName:    tailnet.AreaUsers,
	v1.UserService_SetUserRole_FullMethodName:    tailnet.AreaUsers,
	v1.UserService_LinkIdentity_FullMethodName:   tailnet.AreaUsers,
	v1.UserService_UnlinkIdentity_FullMethodName: tailnet.AreaUsers,

	v1.NodeService_GetNode_FullMethodName:           tailnet.AreaDevices,
	v1.NodeService_ListNodes_FullMethodName:         tailnet.AreaDevices,
	v1.NodeService_RenameNode_FullMethodName:        tailnet.AreaDevices,
	v1.NodeService_DeleteNode_FullMethodName:        tailnet.AreaDevices,
	v1.NodeService_ExpireNode_FullMethodName:        tailnet.AreaDevices,
	v1.NodeService_SetTags_FullMethodName:           tailnet.AreaDevices,
	v1.NodeService_SetApprovedRoutes_FullMethodName: tailnet.AreaRoutes,
	v1.NodeService_ApproveNode_FullMethodName:       tailnet.AreaDevices,
	v1.NodeService_RejectNode_FullMethodName:        tailnet.AreaDevices,
	v1.NodeService_SetKeyExpiry_FullMethodName:      tailnet.AreaDevices,
	v1.NodeService_HoldNode_FullMethodName:          tailnet.AreaDevices,
	v1.NodeService_SetAddress_FullMethodName:        tailnet.AreaDevices,
	v1.NodeService_ListAttributes_FullMethodName:    tailnet.AreaPosture,
	v1.NodeService_SetAttribute_FullMethodName:      tailnet.AreaPosture,
	v1.NodeService_DeleteAttribute_FullMethodName:   tailnet.AreaPosture,
	v1.NodeService_RegisterNode_FullMethodName:      tailnet.AreaDevices,
	v1.NodeService_BackfillNodeIPs_FullMethodName:   tailnet.AreaDevices,
	v1.NodeService_ListRoutes_FullMethodName:        tailnet.AreaRoutes,

	v1.PreAuthKeyService_CreatePreAuthKey_FullMethodName: tailnet.AreaAuthKeys,
	v1.PreAuthKeyService_ListPreAuthKeys_FullMethodName:  tailnet.AreaAuthKeys,
	v1.PreAuthKeyService_ExpirePreAuthKey_FullMethodName: tailnet.AreaAuthKeys,
	v1.PreAuthKeyService_DeletePreAuthKey_FullMethodName: tailnet.AreaAuthKeys,

	v1.ApiKeyService_CreateApiKey_FullMethodName: tailnet.AreaAPIKeys,
	v1.ApiKeyService_ListApiKeys_FullMethodName:  tailnet.AreaAPIKeys,
	v1.ApiKeyService_ExpireApiKey_FullMethodName: tailnet.AreaAPIKeys,
	v1.ApiKeyService_DeleteApiKey_FullMethodName: tailnet.AreaAPIKeys,

	v1.OAuthClientService_CreateOAuthClient_FullMethodName: tailnet.AreaOAuth,
	v1.OAuthClientService_ListOAuthClients_FullMethodName:  tailnet.AreaOAuth,
	v1.OAuthClientService_UpdateOAuthClient_FullMethodName: tailnet.AreaOAuth,
	v1.OAuthClientService_DeleteOAuthClient_FullMethodName: tailnet.AreaOAuth,

	v1.AuthService_AuthRegister_FullMethodName: tailnet.AreaDevices,
	v1.AuthService_AuthApprove_FullMethodName:  tailnet.AreaDevices,
	v1.AuthService_AuthReject_FullMethodName:   tailnet.AreaDevices,
	v1.AuthService_ListLogins_FullMethodName:   tailnet.AreaDevices,

	v1.PolicyService_GetPolicy_FullMethodName:      tailnet.AreaPolicy,
	v1.PolicyService_SetPolicy_FullMethodName:      tailnet.AreaPolicy,
	v1.PolicyService_CheckPolicy_FullMethodName:    tailnet.AreaPolicy,
	v1.PolicyService_ListPolicies_FullMethodName:   tailnet.AreaPolicy,
	v1.PolicyService_RollbackPolicy_FullMethodName: tailnet.AreaPolicy,
	v1.PolicyService_ExplainPolicy_FullMethodName:  tailnet.AreaPolicy,
	v1.PolicyService_PreviewPolicy_FullMethodName:  tailnet.AreaPolicy,

	v1.DNSService_GetDNS_FullMethodName:          tailnet.AreaDNS,
	v1.DNSService_UpdateDNS_FullMethodName:       tailnet.AreaDNS,
	v1.DNSService_SetSplitDNS_FullMethodName:     tailnet.AreaDNS,
	v1.DNSService_AddDNSRecord_FullMethodName:    tailnet.AreaDNS,
	v1.DNSService_RemoveDNSRecord_FullMethodName: tailnet.AreaDNS,

	v1.SettingsService_GetSettings_FullMethodName:    tailnet.AreaSettings,
	v1.SettingsService_UpdateSettings_FullMethodName: tailnet.AreaSettings,

	v1.SettingsService_GetContacts_FullMethodName: tailnet.AreaAccount,
	v1.SettingsService_SetContact_FullMethodName:  tailnet.AreaAccount,

	v1.DERPService_GetDERPMap_FullMethodName:   tailnet.AreaDevices,
	v1.DebugService_GetFleet_FullMethodName:    tailnet.AreaDevices,
	v1.DebugService_GetNetmap_FullMethodName:   tailnet.AreaDevices,
	v1.DebugService_GetLogLevel_FullMethodName: tailnet.AreaSettings,
	v1.DebugService_SetLogLevel_FullMethodName: tailnet.AreaSettings,

	v1.ConfigService_ReloadConfig_FullMethodName: tailnet.AreaSettings,

	v1.AuditService_ListAuditEntries_FullMethodName: tailnet.AreaLogs,
	v1.AuditService_TailAuditEntries_FullMethodName: tailnet.AreaLogs,

	v1.WebhookService_CreateWebhook_FullMethodName: tailnet.AreaWebhooks,
	v1.WebhookService_GetWebhook_FullMethodName:    tailnet.AreaWebhooks,
	v1.WebhookService_ListWebhooks_FullMethodName:  tailnet.AreaWebhooks,
	v1.WebhookService_UpdateWebhook_FullMethodName: tailnet.AreaWebhooks,
	v1.WebhookService_RotateWebhook_FullMethodName: tailnet.AreaWebhooks,
	v1.WebhookService_TestWebhook_FullMethodName:   tailnet.AreaWebhooks,
	v1.WebhookService_DeleteWebhook_FullMethodName: tailnet.AreaWebhooks,

	v1.WatchService_Watch_FullMethodName: "", // it looks at what is watched
}

// mayUse refuses who may not use a method. Nobody may use one that areas does not have.
func (s *Server) mayUse(a tailnet.Actor, method string) error {
	if strings.HasPrefix(method, "/grpc.") { // health and reflection
		return nil
	}
	area, known := areas[method]
	switch {
	case !known:
		return status.Errorf(codes.Unimplemented, "there is no method %s", strings.TrimPrefix(method, "/"))
	case area == "" || s.snapshot().Can(a, tailnet.Read(area)):
		return nil
	}
	return tailnet.Errorf(tailnet.Denied, "%s lacks the right %s, without which it cannot be used for this", a, tailnet.Read(area))
}

// callerOf returns who makes the call.
func callerOf(ctx context.Context) callers.Caller { return callers.Of(ctx) }

// actorOf returns as whom the call changes things.
func actorOf(ctx context.Context) tailnet.Actor { return callers.Of(ctx).Actor }

// stillValid refuses a stream whose key does not work any more.
func (s *Server) stillValid(c callers.Caller) error { return s.gate.StillValid(c) }
