package file

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"appdefender/policy"
)

// Marshal writes a policy as a file, in YAML, without what says nothing.
func Marshal(p *policy.Policy) ([]byte, error) { return MarshalComments(p, nil) }

// MarshalComments is Marshal with comments, each of one line, by the path of
// what they are about: "rules[0].dns.allow[2]".
func MarshalComments(p *policy.Policy, comments map[string]string) ([]byte, error) {
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
	comment(&doc, "", comments)
	return encode(&doc)
}

// Addition is an entry for a list of a policy file.
type Addition struct {
	Path    string // of the list: "rules[0].dns.allow"
	Entry   string
	Comment string
}

// Insert adds entries to lists of a policy file, which keeps its comments. The
// file must be a policy without a fault, and the lists be there.
func Insert(data []byte, additions []Addition) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	for _, a := range additions {
		if !insert(&doc, "", a) {
			return nil, fmt.Errorf("adding %q to %s: there is no such list", a.Entry, a.Path)
		}
	}
	return encode(&doc)
}

// insert adds an entry to the list below n, whose path is at.
func insert(n *yaml.Node, at string, a Addition) bool {
	if strings.TrimPrefix(at, ".") == a.Path && n.Kind == yaml.SequenceNode {
		n.Style &^= yaml.FlowStyle
		entry := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: a.Entry, LineComment: lineComment(a.Comment)}
		n.Content = append(n.Content, entry)
		return true
	}
	for i, c := range children(n) {
		if insert(c, at+childPath(n, i), a) {
			n.Style &^= yaml.FlowStyle // a comment in it would end it
			return true
		}
	}
	return false
}

// comment puts comments behind the values of n, and before lists and mappings.
func comment(n *yaml.Node, at string, comments map[string]string) {
	if text := comments[strings.TrimPrefix(at, ".")]; text != "" {
		if n.Kind == yaml.ScalarNode {
			n.LineComment = lineComment(text)
		} else {
			n.HeadComment = lineComment(text)
		}
	}
	for i, c := range children(n) {
		comment(c, at+childPath(n, i), comments)
	}
}

func lineComment(text string) string {
	if text == "" {
		return ""
	}
	return "# " + strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' {
			return ' '
		}
		return r
	}, text)
}

// children are the values below a node, without the keys of a mapping.
func children(n *yaml.Node) []*yaml.Node {
	if n.Kind != yaml.MappingNode {
		return n.Content
	}
	values := make([]*yaml.Node, 0, len(n.Content)/2)
	for i := 1; i < len(n.Content); i += 2 {
		values = append(values, n.Content[i])
	}
	return values
}

// childPath is how the path of n's i-th child goes on.
func childPath(n *yaml.Node, i int) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "." + n.Content[2*i].Value
	case yaml.SequenceNode:
		return "[" + strconv.Itoa(i) + "]"
	}
	return ""
}

func encode(doc *yaml.Node) ([]byte, error) {
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(doc); err != nil {
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
