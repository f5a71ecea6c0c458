package inject

import (
	"bytes"
	"strings"
	"testing"
)

const template = `# a stack
Parameters:
  Tag: {Type: String}
Resources:
  Web:
    Type: AWS::ECS::TaskDefinition
    Properties:
      Family: !Sub "${AWS::StackName}-web"
      ContainerDefinitions:
      - Name: !Ref AppName   # as elsewhere
        Image: !Sub "repo/web:${Tag}"
        EntryPoint: [!Ref Program, "--port", !Sub '${Port}']
        Environment:
        - {Name: PORT, Value: !Ref Port}
        - !If [Debug, {Name: DEBUG, Value: "1"}, !Ref "AWS::NoValue"]
      - Name: side
        Image: side
        EntryPoint:
          Fn::If: [x, y, z]
`

// Intrinsic functions stay, what can be prefixed is, and what cannot is told
// with its place.
func TestIntrinsics(t *testing.T) {
	o := options("seed")
	o.TokenSecret = "!Ref Token"
	_, _, err := Embed(CloudFormation, []byte(template), o)
	const want = `19:11: Resources.Web.Properties.ContainerDefinitions[1].EntryPoint: is computed by the platform as a whole`
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Fatalf("error %v, want %s", err, want)
	}
	in := template[:strings.Index(template, "      - Name: side")]
	out, rep, err := Embed(CloudFormation, []byte(in), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`EntryPoint: [/var/lib/appdefender/defender, run, "--", !Ref Program, "--port", !Sub '${Port}']`,
		"- Name: DEFENDER_CONTAINER\n          Value: !Ref AppName\n",
		"- Name: DEFENDER_IMAGE\n          Value: !Sub \"repo/web:${Tag}\"\n",
		"- Name: DEFENDER_TOKEN\n          ValueFrom: !Ref Token\n",
		"!If [Debug, {Name: DEBUG, Value: \"1\"}, !Ref \"AWS::NoValue\"]\n        - Name: DEFENDER_CONSOLE\n",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is missing in:\n%s", want, out)
		}
	}
	if rep.Containers[0].Name != "!Ref AppName" {
		t.Errorf("%+v", rep.Containers)
	}
	if back, undone, err := Remove(CloudFormation, out); err != nil || string(back) != in || !undone.Exact {
		t.Errorf("removed: %v\n%s", err, back)
	}
	if again, _, err := Embed(CloudFormation, out, Options{Version: "1.0"}); err != nil || !bytes.Equal(again, out) {
		t.Errorf("again: %v\n%s", err, again)
	}
}
