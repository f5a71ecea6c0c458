package inject

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"
)

// BundleDir is the folder of a bundle that has the Defender's files.
const BundleDir = "appdefender"

// Bundle returns a ZIP file of a protected Dockerfile and, in the folder
// "appdefender", all that it copies: what a build's context needs where no
// image of the Defender can be had. The same input makes the same bytes.
func Bundle(dockerfile, program []byte, o Options) ([]byte, *Report, error) {
	if len(program) == 0 {
		return nil, nil, errors.New("the defender's program is missing")
	}
	o.Context = BundleDir
	out, rep, err := Embed(Dockerfile, dockerfile, o)
	if err != nil {
		return nil, nil, err
	}
	_, had, err := stripDockerfile(bytes.TrimPrefix(out, byteOrderMark))
	if err != nil {
		return nil, nil, err
	}
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, f := range []struct {
		name string
		data []byte
		mode uint32
	}{
		{"Dockerfile", out, 0o644},
		{BundleDir + "/ca.pem", []byte(had.CA), 0o644},
		{BundleDir + "/policy.yaml", []byte(had.Policy), 0o644},
		{BundleDir + "/defender", program, 0o755},
	} {
		if len(f.data) == 0 {
			continue
		}
		h := &zip.FileHeader{Name: f.name, Method: zip.Deflate, Modified: time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)}
		const regular, unix = 0o100000, 3 // a mode of Unix is in the upper half
		h.CreatorVersion, h.ExternalAttrs = unix<<8|20, (regular|f.mode)<<16
		w, err := z.CreateHeader(h)
		if err != nil {
			return nil, nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, nil, err
		}
	}
	if err := z.Close(); err != nil {
		return nil, nil, err
	}
	return b.Bytes(), rep, nil
}

// EmbedContainers protects the list of containers that Terraform's
// aws_ecs_task_definition takes as container_definitions, of a task of that
// family. Without an App ID it makes one of the family that is always the same,
// for Terraform compares what it is given with what there is.
func EmbedContainers(definitions []byte, family string, o Options) ([]byte, *Report, error) {
	if o.AppID == "" {
		o.AppID = family + ":" + lastingUUID(family)
	}
	head := `{"family":` + quote(family) + `,"memory":"0","containerDefinitions":`
	out, rep, err := Embed(TaskDefinition, []byte(head+string(definitions)+"}"), o)
	if err != nil {
		return nil, nil, err
	}
	var f faults
	n := parseJSON(out, &f).get(containers)
	if n == nil {
		return nil, nil, fmt.Errorf("reading the result: %w", f.err())
	}
	return out[n.start:n.end], rep, nil
}

// lastingUUID returns a UUID of a name (RFC 9562, version 8).
func lastingUUID(name string) string {
	b := sha256.Sum256([]byte("appdefender " + name))
	b[6] = b[6]&0x0f | 0x80
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
