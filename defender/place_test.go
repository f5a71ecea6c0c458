package defender

import "testing"

func TestPlaces(t *testing.T) {
	const ptrace, raw = capability + "SYS_PTRACE", capability + "NET_RAW"
	for _, test := range []struct {
		environ     []string
		name        string
		ptrace, raw string // the cures, as they can be had
	}{
		{[]string{"PATH=/bin", "ECS_CONTAINER_METADATA_URI_V4=http://169.254.170.2/v4/x", "AWS_EXECUTION_ENV=AWS_ECS_FARGATE"}, "ECS on Fargate", ptrace, ""},
		{[]string{"ECS_CONTAINER_METADATA_URI_V4=http://169.254.170.2/v4/x", "AWS_EXECUTION_ENV=AWS_ECS_EC2"}, "ECS", ptrace, raw},
		{[]string{"K_SERVICE=shop"}, "Cloud Run", "", ""},
		{[]string{"CLOUD_RUN_JOB=night"}, "Cloud Run", "", ""},
		{[]string{"KUBERNETES_SERVICE_HOST=10.0.0.1"}, "Kubernetes", ptrace, raw},
		{[]string{"K_SERVICES=x", "XK_SERVICE=x"}, "", ptrace, raw},
		{nil, "", ptrace, raw},
	} {
		p := placeOf(test.environ)
		if p.name != test.name || p.remedy(ptrace) != test.ptrace || p.remedy(raw) != test.raw {
			t.Errorf("%v: %q, %q, %q", test.environ, p.name, p.remedy(ptrace), p.remedy(raw))
		}
		if cure := "start the target as the user it needs"; p.remedy(cure) != cure {
			t.Errorf("%v: no capability, and lost: %q", test.environ, p.remedy(cure))
		}
	}
}
