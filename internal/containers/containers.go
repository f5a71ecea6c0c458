// Package containers lets tests start containers by podman, or skips them
// where none can be had.
package containers

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// settings are for containers within a container, such as a CI runner: crun
// refuses a machine that has both versions of control groups, and limits may
// not be raised above our own.
const settings = `[containers]
default_ulimits = ["nofile=20000:20000","nproc=4096:4096"]
[engine]
runtime = "runc"
`

// Need skips a test that is not root's, or where podman, runc or one of the
// other tools is missing. Until the test ends, podman and buildah work as they
// must here.
func Need(t *testing.T, tools ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, tool := range append([]string{"podman", "runc"}, tools...) {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s: make test-platforms installs it", tool)
		}
	}
	conf := filepath.Join(t.TempDir(), "containers.conf")
	if err := os.WriteFile(conf, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CONTAINERS_CONF", conf)
	t.Setenv("BUILDAH_RUNTIME", "runc")
}
