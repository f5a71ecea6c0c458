package console

import (
	"net/http"

	"appdefender/console/store"
	"appdefender/inject"
	"appdefender/wire"
)

// routes is all that the Server answers but for the pages.
func (s *Server) routes() []Route {
	// A version of the compatible API, such as v1 or v34.04; which does not
	// matter.
	const compat = "/api/{version}"
	return []Route{
		// Defenders; package wire says more.
		{Pattern: "POST " + wire.Path + "/enrol", Role: Anybody, Handler: s.enrol, MaxBody: 64 << 10, own: true},
		{Pattern: "GET " + wire.Path + "/{id}/policy", Role: Anybody, Handler: s.defenderPolicy, own: true},
		{Pattern: "POST " + wire.Path + "/{id}/audits", Role: Anybody, Handler: s.defenderAudits, MaxBody: wire.MaxBatchBytes, own: true},
		{Pattern: "POST " + wire.Path + "/{id}/heartbeat", Role: Anybody, Handler: s.defenderHeartbeat, MaxBody: 64 << 10, own: true},
		{Pattern: "POST " + wire.Path + "/{id}/forensics", Role: Anybody, Handler: s.defenderForensics, MaxBody: wire.MaxSnapshot / 4, own: true},

		// The compatible API.
		{Pattern: "POST " + compat + "/authenticate", Role: Anybody, Handler: compatible(s.postAuthenticate), MaxBody: 8 << 10},
		{Pattern: "GET " + compat + "/policies/runtime/app-embedded", Role: store.Auditor, Handler: compatible(s.getCompatPolicy)},
		{Pattern: "PUT " + compat + "/policies/runtime/app-embedded", Role: store.Editor, Handler: compatible(s.putCompatPolicy), MaxBody: wire.MaxPolicy},
		{Pattern: "POST " + compat + "/policies/runtime/app-embedded", Role: store.Editor, Handler: compatible(s.postCompatRule), MaxBody: wire.MaxPolicy},
		{Pattern: "GET " + compat + "/custom-rules", Role: store.Auditor, Handler: compatible(s.getCompatCustomRules)},
		{Pattern: "PUT " + compat + "/custom-rules/{id}", Role: store.Editor, Handler: compatible(s.putCompatCustomRule), MaxBody: wire.MaxPolicy},
		{Pattern: "DELETE " + compat + "/custom-rules/{id}", Role: store.Editor, Handler: compatible(s.deleteCompatCustomRule)},
		{Pattern: "GET " + compat + "/audits/runtime/app-embedded", Role: store.Auditor, Handler: compatible(s.getCompatAudits)},
		{Pattern: "GET " + compat + "/audits/incidents", Role: store.Auditor, Handler: compatible(s.getIncidents)},
		{Pattern: "PATCH " + compat + "/audits/incidents/acknowledge/{id}", Role: store.Editor, Handler: compatible(s.patchIncident)},
		{Pattern: "POST " + compat + "/defenders/fargate.json", Role: store.Editor, Handler: compatible(s.compatEmbed(inject.TaskDefinition)), MaxBody: MaxDefinition},
		{Pattern: "POST " + compat + "/defenders/fargate.yaml", Role: store.Editor, Handler: compatible(s.compatEmbed(inject.CloudFormation)), MaxBody: MaxDefinition},
		{Pattern: "POST " + compat + "/defenders/eks-fargate.yaml", Role: store.Editor, Handler: compatible(s.compatEmbed(inject.Kubernetes)), MaxBody: MaxDefinition},
		{Pattern: "POST " + compat + "/defenders/cloud-run.yaml", Role: store.Editor, Handler: compatible(s.compatEmbed(inject.CloudRun)), MaxBody: MaxDefinition},
		{Pattern: "POST " + compat + "/defenders/aci.yaml", Role: store.Editor, Handler: compatible(s.compatEmbed(inject.ContainerGroup)), MaxBody: MaxDefinition},
		{Pattern: "POST " + compat + "/defenders/app-embedded", Role: store.Editor, Handler: compatible(s.postCompatBundle), MaxBody: maxEmbed},

		// The native API.
		{Pattern: "GET /api/v1/me", Role: store.Auditor, Handler: s.getMe},
		{Pattern: "GET /api/v1/policy", Role: store.Auditor, Handler: s.getPolicy},
		{Pattern: "PUT /api/v1/policy", Role: store.Editor, Handler: s.putPolicy, MaxBody: wire.MaxPolicy},
		{Pattern: "POST /api/v1/policy/validate", Role: store.Auditor, Handler: s.validatePolicy, MaxBody: wire.MaxPolicy},
		{Pattern: "GET /api/v1/policy/versions", Role: store.Auditor, Handler: s.getVersions},
		{Pattern: "GET /api/v1/policy/versions/{generation}", Role: store.Auditor, Handler: s.getVersion},
		{Pattern: "POST /api/v1/policy/rules", Role: store.Editor, Handler: s.postRule, MaxBody: wire.MaxPolicy},
		{Pattern: "PUT /api/v1/policy/rules/{name}", Role: store.Editor, Handler: s.putRule, MaxBody: wire.MaxPolicy},
		{Pattern: "DELETE /api/v1/policy/rules/{name}", Role: store.Editor, Handler: s.deleteRule},
		{Pattern: "POST /api/v1/policy/rules/{name}/move", Role: store.Editor, Handler: s.moveRule},
		{Pattern: "POST /api/v1/embed", Role: store.Editor, Handler: s.embed(Protected), MaxBody: maxEmbed},
		{Pattern: "POST /api/v1/embed/remove", Role: store.Editor, Handler: s.embed(Original), MaxBody: maxEmbed},
		{Pattern: "POST /api/v1/embed/kustomize", Role: store.Editor, Handler: s.embed(Patches), MaxBody: maxEmbed},
		{Pattern: "POST /api/v1/embed/bundle", Role: store.Editor, Handler: s.embed(Bundle), MaxBody: maxEmbed},
		{Pattern: "GET /api/v1/audits", Role: store.Auditor, Handler: s.getAudits},
		{Pattern: "GET /api/v1/audits/stream", Role: store.Auditor, Handler: s.streamAudits},
		{Pattern: "GET /api/v1/audits/app-ids", Role: store.Auditor, Handler: s.getAppIDs},
		{Pattern: "GET /api/v1/defenders", Role: store.Auditor, Handler: s.getDefenders},
		{Pattern: "GET /api/v1/defenders/{id}", Role: store.Auditor, Handler: s.getDefender},
		{Pattern: "POST /api/v1/defenders/{id}/revoke", Role: store.Editor, Handler: s.postRevoke},
		{Pattern: "POST /api/v1/defenders/{id}/forensics/ask", Role: store.Editor, Handler: s.postForensics},
		{Pattern: "GET /api/v1/defenders/{id}/forensics", Role: store.Auditor, Handler: s.getSnapshots},
		{Pattern: "GET /api/v1/forensics/{snapshot}", Role: store.Auditor, Handler: s.getSnapshot},
		{Pattern: "GET /api/v1/tokens", Role: store.Admin, Handler: s.getTokens},
		{Pattern: "POST /api/v1/tokens", Role: store.Admin, Handler: s.postToken},
		{Pattern: "DELETE /api/v1/tokens/{name}", Role: store.Admin, Handler: s.deleteToken},
		{Pattern: "GET /api/v1/users", Role: store.Admin, Handler: s.getUsers},
		{Pattern: "POST /api/v1/users", Role: store.Admin, Handler: s.postUser},
		{Pattern: "PATCH /api/v1/users/{name}", Role: store.Admin, Handler: s.patchUser},
		{Pattern: "DELETE /api/v1/users/{name}", Role: store.Admin, Handler: s.deleteUser},
		{Pattern: "POST /api/v1/me/password", Role: store.Auditor, Handler: s.postPassword},
		{Pattern: "GET /api/v1/changes", Role: store.Auditor, Handler: s.getChanges},

		{Pattern: "GET /api/v1/ping", Role: Anybody, Handler: ping},
		{Pattern: "GET /api/v1/openapi.yaml", Role: Anybody, Handler: getOpenAPI},
		// One for each method, so that a page may have "GET /".
		{Pattern: "GET /api/", Role: Anybody, Handler: noSuchPath},
		{Pattern: "POST /api/", Role: Anybody, Handler: noSuchPath},
		{Pattern: "PUT /api/", Role: Anybody, Handler: noSuchPath},
		{Pattern: "PATCH /api/", Role: Anybody, Handler: noSuchPath},
		{Pattern: "DELETE /api/", Role: Anybody, Handler: noSuchPath},
	}
}

// maxEmbed bounds a definition within JSON, where it grows.
const maxEmbed = 3 * MaxDefinition

// ping is for health checks.
func ping(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, struct{}{})
}

func noSuchPath(_ http.ResponseWriter, r *http.Request) error {
	return Errorf(http.StatusNotFound, "there is no %s %s", r.Method, r.URL.Path)
}
