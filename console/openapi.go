package console

import (
	_ "embed"
	"net/http"
)

// openapi describes the API for programs that make clients of it. A test
// compares it with the routes and with what they answer.
//
//go:embed openapi.yaml
var openapi []byte

func getOpenAPI(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(openapi)
	return nil
}
