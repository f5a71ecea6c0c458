package inject

import (
	"archive/zip"
	"bytes"
	"io"
	"strings"
	"testing"
)

func TestBundle(t *testing.T) {
	o := fileOptions()
	o.DefenderImage = ""
	in := []byte("FROM scratch\nENTRYPOINT [\"/a\"]\n")
	first, _, err := Bundle(in, []byte("program"), o)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(first), int64(len(first)))
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got[f.Name+" "+f.Mode().String()] = string(data)
	}
	if len(got) != 3 || got["appdefender/defender -rwxr-xr-x"] != "program" || got["appdefender/policy.yaml -rw-r--r--"] != string(o.Policy) ||
		!strings.Contains(got["Dockerfile -rw-r--r--"], `COPY ["appdefender/", "/var/lib/appdefender/"]`) {
		t.Errorf("%q", got)
	}
	if again, _, err := Bundle([]byte(got["Dockerfile -rw-r--r--"]), []byte("program"), Options{Version: "1.0"}); err != nil || !bytes.Equal(again, first) {
		t.Errorf("again: %v", err)
	}
}

func TestEmbedContainers(t *testing.T) {
	const in = `[{"name":"web","image":"nginx","entryPoint":["/web"]}]`
	o := options("seed")
	o.AppID = ""
	out, rep, err := EmbedContainers([]byte(in), "shop", o)
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := EmbedContainers([]byte(in), "shop", o)
	if err != nil || !bytes.Equal(out, again) {
		t.Errorf("not the same a second time: %v\n%s\n%s", err, out, again)
	}
	if out[0] != '[' || !strings.HasPrefix(rep.AppID, "shop:") || !strings.Contains(string(out), `"entryPoint":["/var/lib/appdefender/defender","run","--","/web"]`) {
		t.Errorf("%s, %s", rep.AppID, out)
	}
	for _, bad := range []string{"", "{}", `[], "family": "x"`, "null", `[{"name":"web","image":"nginx"}]`} {
		if out, _, err := EmbedContainers([]byte(bad), "shop", o); err == nil {
			t.Errorf("%q became %s", bad, out)
		}
	}
}
