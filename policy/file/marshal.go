package file

import (
	"bytes"
	"encoding/json"

	"go.yaml.in/yaml/v4"

	"appdefender/policy"
)

// Marshal writes a policy as a file, in YAML, without what says nothing.
func Marshal(p *policy.Policy) ([]byte, error) {
	// The JSON leaves out what says nothing, and its order of keys is kept.
	b, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return nil, err
	}
	blockStyle(&doc)
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(&doc); err != nil {
		return nil, err
	}
	return out.Bytes(), e.Close()
}

// blockStyle takes the braces and quotes of JSON from a node.
func blockStyle(n *yaml.Node) {
	n.Style &^= yaml.FlowStyle | yaml.DoubleQuotedStyle
	for _, c := range n.Content {
		blockStyle(c)
	}
}
