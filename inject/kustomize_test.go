package inject

import (
	"strings"
	"testing"
)

func TestKustomize(t *testing.T) {
	const in = `apiVersion: v1
kind: Service
metadata: {name: s}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, namespace: prod}
spec:
  template:
    spec:
      containers:
      - name: web
        image: web
        command: [/web]
        env: [{name: A, value: b}]
        securityContext: {capabilities: {add: [NET_ADMIN]}}
      - {name: side, image: side, command: [/side]}
`
	const want = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: shop
  namespace: prod
spec:
  template:
    spec:
      initContainers:
        - name: appdefender
          image: defender:1
`
	const web = `      containers:
        - name: web
          command:
            - /var/lib/appdefender/defender
            - run
            - "--"
            - /web
          env:
            - name: DEFENDER_POLICY
              value: /var/lib/appdefender/policy.yaml
            - name: DEFENDER_APP_ID
              value: "shop:1"
            - name: DEFENDER_CONTAINER
              value: web
            - name: DEFENDER_IMAGE
              value: web
          volumeMounts:
            - name: appdefender
              mountPath: /var/lib/appdefender
              readOnly: true
          securityContext:
            capabilities:
              add:
                - NET_ADMIN
                - SYS_PTRACE
      volumes:
        - name: appdefender
          emptyDir: {}
`
	o := fileOptions()
	o.Skip = []string{"side"}
	out, _, err := Kustomize([]byte(in), o)
	if err != nil {
		t.Fatal(err)
	}
	got := string(out)
	if !strings.HasPrefix(got, want) || !strings.HasSuffix(strings.ReplaceAll(got, "value: shop:1", `value: "shop:1"`), web) || strings.Contains(got, "Service") {
		t.Errorf("patches:\n%s", got)
	}
	if _, _, err := Kustomize([]byte("kind: List\nitems:\n- kind: Pod\n  metadata: {name: p}\n  spec: {containers: [{name: a, image: a, command: [a]}]}\n"), o); err == nil {
		t.Error("a pod of a list was patched")
	}
}
