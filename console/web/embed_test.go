package web

import (
	"bytes"
	"encoding/base64"
	"html"
	"mime/multipart"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"appdefender/inject"
)

const crlfPod = "apiVersion: v1\r\nkind: Pod # with CRLF\r\nmetadata: {name: shop}\r\nspec:\r\n  containers:\r\n  - name: web\r\n    image: \"<b>web</b>\"\r\n    command: [/web]\r\n"

// upload sends the form with a file, as a browser does.
func (w *browser) upload(name, data string, fields ...string) answer {
	w.t.Helper()
	var b bytes.Buffer
	form := multipart.NewWriter(&b)
	for i := 0; i < len(fields); i += 2 {
		if err := form.WriteField(fields[i], fields[i+1]); err != nil {
			w.t.Fatal(err)
		}
	}
	part, err := form.CreateFormFile("file", name)
	if err != nil {
		w.t.Fatal(err)
	}
	_, _ = part.Write([]byte(data))
	form.Close()
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.url+embedPath, &b)
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Content-Type", form.FormDataContentType())
	r.Header.Set("Origin", w.url)
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return w.do(r)
}

var sourceField = regexp.MustCompile(`name="source" value="([^"]*)"`)

// source is what the page keeps of the file.
func (a answer) source() string {
	a.t.Helper()
	m := sourceField.FindStringSubmatch(a.body)
	if m == nil {
		a.t.Fatal("the page keeps no source")
	}
	return html.UnescapeString(m[1])
}

var options = []string{"format", "kubernetes", "as", "protected", "app-id", "shop:1", "image", "d:1", "console", "https://c.example", "token-secret", "token", "on-failure", "open"}

// A file is looked at and downloaded, and the bytes are those that the tool
// makes; taken out again they are the file's.
func TestEmbedPage(t *testing.T) {
	b := newBench(t, Config{})
	w := b.as("editor")
	want, _, err := inject.Embed(inject.Kubernetes, []byte(crlfPod), inject.Options{
		DefenderImage: "d:1", Console: "https://c.example", TokenSecret: "token", AppID: "shop:1", OnFailure: "open",
	})
	if err != nil {
		t.Fatal(err)
	}
	page := w.upload("pod.yaml", crlfPod, append([]string{"do", "show"}, options...)...)
	page.want(http.StatusOK, `<span class="added">&#43;  initContainers:`, "&lt;b&gt;web&lt;/b&gt;", "App ID <code>shop:1</code>", "pod.yaml").wantNot("<b>web</b>", "\\r")
	// The text field has lost the carriage returns: the page has not.
	fields := append([]string{"do", "download", "name", "pod.yaml", "source", page.source(), "text", strings.ReplaceAll(crlfPod, "\r\n", "\n")}, options...)
	file := w.post(embedPath, fields...)
	file.want(http.StatusOK)
	if file.body != string(want) || file.header.Get("Content-Disposition") != "attachment; filename=pod.yaml" || file.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%v:\n%s", file.header, file.body)
	}
	back := w.upload("pod.yaml", file.body, "format", "kubernetes", "as", "original", "do", "download")
	if back.want(http.StatusOK); back.body != crlfPod {
		t.Errorf("taken out: %q", back.body)
	}
	w.upload("pod.yaml", file.body, "format", "kubernetes", "as", "original", "do", "show").want(http.StatusOK, "This is the original again, to the byte")
	w.upload("pod.yaml", file.body, "format", "kubernetes", "as", "protected", "do", "show").want(http.StatusOK, "nothing would change", "App ID <code>shop:1</code>")
	w.upload("pod.yaml", crlfPod, append([]string{"do", "show"}, append([]string{"as", "kustomize"}, options...)...)...).want(http.StatusOK, "Patches", "initContainers:")

	// What was typed ends its lines as people's files do; what was changed of a
	// file, as the file.
	if a := w.post(embedPath, append([]string{"do", "download", "text", strings.ReplaceAll(crlfPod, "\r\n", "\n")}, options...)...); strings.Contains(a.body, "\r") || a.status != 200 {
		t.Errorf("typed: %d %q", a.status, a.body)
	}
	changed := strings.Replace(crlfPod, "/web]", "/web, now]", 1)
	if a := w.post(embedPath, append([]string{"do", "download", "text", changed, "source", base64.StdEncoding.EncodeToString([]byte(crlfPod))}, options...)...); strings.Count(a.body, "\r\n") != strings.Count(a.body, "\n") || !strings.Contains(a.body, "now") {
		t.Errorf("changed: %d %q", a.status, a.body)
	}
	if n := strings.Count(b.as("auditor").get(changesPath).body, "embedded a definition (kubernetes) for App ID"); n != 3 {
		t.Errorf("%d changes are told", n)
	}
}

func TestEmbedPageRefuses(t *testing.T) {
	b := newBench(t, Config{})
	w := b.as("editor")
	with := func(more ...string) []string { return append(more, options...) }
	w.post(embedPath, with("text", "kind: Pod\r\nmetadata: {name: p}\r\nspec:\r\n  containers:\r\n  - name: a\r\n    image: <script>\r\n")...).
		want(http.StatusBadRequest, "5:5: spec.containers[0]: &#34;a&#34; has neither command nor args", `value="https://c.example"`).wantNot("<script>\n")
	w.post(embedPath, with("text", crlfPod, "entrypoints", "web: x")...).want(http.StatusBadRequest, `is not as in web=`)
	w.post(embedPath, with("text", crlfPod, "entrypoints", "web=[\"a\"]\nweb=[]")...).want(http.StatusBadRequest, `is there twice`)
	w.post(embedPath, with()...).want(http.StatusBadRequest, "Choose a file or paste a definition.")
	w.post(embedPath, with("text", crlfPod, "source", "no base64!")...).want(http.StatusOK)
	w.upload("x", "a: \xff\xfe", with("do", "show")...).want(http.StatusBadRequest, "1:4: is not UTF-8")
	w.upload("x", "\xff\xfek\x00", with("do", "show")...).want(http.StatusBadRequest, "1:1: is UTF-16")
	w.post(embedPath, append([]string{"text", crlfPod, "as", "bundle"}, options[4:]...)...).want(http.StatusBadRequest, "A ZIP is made of")
	w.upload("x", strings.Repeat("# much\n", 2<<20/7+1), with("do", "show")...).want(http.StatusRequestEntityTooLarge, "larger than 2097152 bytes")
	w.upload("x", strings.Repeat("#", maxEmbedForm+1), with("do", "show")...).want(http.StatusRequestEntityTooLarge)
	// Containers that the definition leaves to their image.
	w.post(embedPath, with("text", strings.Replace(crlfPod, "    command: [/web]\r\n", "", 1), "entrypoints", `web=["/entry"]`, "commands", "web=[]")...).want(http.StatusOK, "/entry ")
	for _, who := range []string{"auditor", ""} {
		if a := b.as(who).post(embedPath, with("text", crlfPod)...); a.status == http.StatusOK {
			t.Errorf("%q may embed", who)
		}
	}
}
