package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/urfave/cli/v2"

	"appdefender/cmd/internal/flags"
	"appdefender/inject"
	"appdefender/inject/image"
	"appdefender/policy/file"
)

// maxDefinition is how long a task definition may be that the platform takes.
const maxDefinition = 64 << 10

// embedFormat is a format as the command line offers it.
type embedFormat struct {
	format inject.Format
	usage  string
	file   string // what a file of it is usually called
	about  string
	image  string // how to say what an image starts
}

var embedFormats = []embedFormat{
	{
		inject.TaskDefinition, "protect every container of an ECS task definition", "task.json",
		"FILE is JSON as RegisterTaskDefinition takes it.", perContainer,
	}, {
		inject.CloudFormation, "protect every ECS task definition of a CloudFormation template", "template.yaml",
		"FILE is a template, or one resource, in JSON or YAML. Ref, Fn::Sub and the like stay as\n" +
			"they are; one that makes a whole list of containers or of an entry point is refused.\n" +
			"--token-secret may be one too: --token-secret '!Ref TokenSecret'.", perContainer,
	}, {
		inject.Kubernetes, "protect every pod of Kubernetes manifests", "deployment.yaml",
		"FILE is YAML or JSON, of one document or many: Pod, Deployment, StatefulSet, DaemonSet,\n" +
			"Job, CronJob, lists of them, and whatever has a pod where a Deployment has it. Other\n" +
			"documents stay. An init container brings the program in an emptyDir.\n" +
			"--token-secret is NAME or NAME/KEY of a Secret; the key is \"token\" if not said.", perContainer,
	}, {
		inject.Compose, "protect every service of a docker compose project", "compose.yaml",
		"A service of ours brings the program in a volume, and the others wait for it.\n" +
			"--token-secret is one of the project's secrets.", perContainer,
	}, {
		inject.CloudRun, "protect every container of a Cloud Run service", "service.yaml",
		"FILE is the YAML of \"gcloud run services replace\". A container of ours brings the program\n" +
			"in a volume in memory and stays; the others depend on it. They need names, and one of them\n" +
			"its ports. --token-secret is NAME or NAME/VERSION of a secret. A job is embedded by its image.", perContainer,
	}, {
		inject.ContainerGroup, "protect every container of an Azure container group", "group.yaml",
		"FILE is the YAML of \"az container create --file\" or an ARM template in JSON. An init\n" +
			"container brings the program in an emptyDir. The token becomes a secure value, from\n" +
			"--token-file or, in a template, --token-secret \"[parameters('token')]\".", perContainer,
	}, {
		inject.Dockerfile, "protect what a Dockerfile builds", "Dockerfile",
		"The defender's lines go to the end of the last stage, or of the --target; if the image\n" +
			"needs a policy or a CA, a small stage before it writes those. No line of yours changes.",
		"ENTRYPOINT, CMD, SHELL, ARG and stages are followed as Docker does. What is in no line is\n" +
			"in the image that the first stage is made from: --lookup asks the registry, or say it with\n" +
			"--entrypoint '[\"…\"]' and --command '[\"…\"]'. The token comes when the container is started: as DEFENDER_TOKEN,\n" +
			"or as a file in /run/secrets that --token-secret names.",
	},
}

const perContainer = "A container whose definition does not say what it starts starts what its image says:\n" +
	"--lookup asks the registry, with the passwords of \"docker login\"; or say it with\n" +
	"--entrypoint and, if the definition has no command either, --command."

func (a *app) embedCommands() []*cli.Command {
	var commands []*cli.Command
	for _, f := range embedFormats {
		commands = append(commands, a.embedCommand(f))
	}
	return append(commands, a.embedImage(), a.embedTerraform())
}

func (a *app) embedCommand(f embedFormat) *cli.Command {
	command := "defenderctl embed " + string(f.format)
	return &cli.Command{
		Name:      string(f.format),
		Usage:     f.usage,
		UsageText: command + " FILE [flags]",
		Description: f.about + "\nA FILE of - is standard input.\n\n" +
			"    " + command + " " + f.file + " --defender-image IMAGE --policy policy.yaml\n\n" +
			"The protected definition goes to standard output; all that is not the defender's stays\n" +
			"as it is, to the byte. One that is protected already is brought up to date: flags left\n" +
			"out keep what it has. --remove gives the original back.\n\n" + f.image,
		OnUsageError: usageError,
		Flags: slices.Concat(f.flags(), optionFlags(), containerFlags(), placeFlags(), []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write to `FILE`, in one step, not to standard output"},
			&cli.BoolFlag{Name: "diff", Usage: "print what would change, and nothing else"},
			&cli.BoolFlag{Name: "check", Usage: "print nothing; exit with 1 unless FILE is protected and these flags would change nothing"},
			&cli.BoolFlag{Name: "remove", Aliases: []string{"undo"}, Usage: "take the protection out again"},
		}),
		Action: func(c *cli.Context) error { return a.embed(c, f) },
	}
}

// optionFlags are what to protect with.
func optionFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "defender-image", Usage: "`IMAGE` that holds the defender"},
		&cli.StringFlag{Name: "console", Usage: "`URL` of the Console"},
		&cli.StringFlag{Name: "token-secret", Usage: "`NAME` of the platform's secret that holds the enrolment token, such as an ARN"},
		&cli.StringFlag{Name: "token-file", Usage: "`FILE` with the enrolment token, which then stands in the definition"},
		&cli.StringFlag{Name: "ca", Usage: "`FILE` with the certificates, in PEM, that the Console's may be signed by"},
		&cli.StringFlag{Name: "policy", Usage: "`FILE` with the policy that holds without a Console, or until it answers"},
		&cli.DurationFlag{Name: "wait-for-policy", DefaultText: inject.DefaultWait.String(), Usage: "start the application when the Console's policy is in force, or after `DURATION`"},
		&cli.StringFlag{Name: "data-dir", Usage: "`DIR` in each container that keeps unsent audits and the last good policy (default: " + inject.DefaultDataDir + ")"},
		&cli.StringFlag{Name: "on-failure", Usage: "what a defender that cannot supervise, or dies, does with its application: `closed` ends it (the default), open lets it run"},
		&cli.BoolFlag{Name: "file-monitoring", Usage: "stop the calls that change files, for the section \"files\" of a rule; --file-monitoring=false takes that back"},
		&cli.StringFlag{Name: "app-id", Usage: "App `ID` (default: the name of the task, pod or project, a colon and a new UUID)"},
	}
}

// containerFlags are about single containers.
func containerFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "image", Usage: "`NAME=IMAGE` that rules know container NAME by, if it is not its image"},
		&cli.StringSliceFlag{Name: "entrypoint", Usage: "`NAME=JSON`: the ENTRYPOINT of container NAME's image, as a list; [] if it has none"},
		&cli.StringSliceFlag{Name: "command", Usage: "`NAME=JSON`: the CMD of container NAME's image, likewise"},
		&cli.StringSliceFlag{Name: "skip", Usage: "leave container `NAME` unprotected"},
		&cli.BoolFlag{Name: "no-ptrace", Usage: "leave the capability SYS_PTRACE out, for platforms that refuse it, such as EKS on Fargate"},
		&cli.BoolFlag{Name: "lookup", Usage: "ask the registry what an image starts, where the definition does not say it"},
		&cli.StringSliceFlag{Name: "image-from", Usage: "`IMAGE=PLACE` to look an image up in: docker-archive:FILE, oci-archive:FILE, oci:DIR or another name"},
	}
}

// placeFlags are about registries.
func placeFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "platform", Usage: "`PLATFORM` to choose from an image of many, such as linux/arm64 (default: of what is looked up, this machine's)"},
		&cli.StringFlag{Name: "registry-ca", Usage: "`FILE` with the certificates, in PEM, that a registry's may be signed by"},
		&cli.BoolFlag{Name: "plain-http", Usage: "reach registries without TLS"},
	}
}

// places reads the flags about registries. Passwords are those of "docker
// login" and "podman login".
func (a *app) places(c *cli.Context) (*image.Places, error) {
	p := &image.Places{PlainHTTP: c.Bool("plain-http"), Platform: c.String("platform")}
	var errs []error
	if file := c.String("registry-ca"); file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			errs = append(errs, fmt.Errorf("--registry-ca: %w", err))
		}
		p.CA = data
	}
	var err error
	if p.Elsewhere, err = byName(c.StringSlice("image-from"), func(s string) (string, error) { return s, nil }); err != nil {
		errs = append(errs, fmt.Errorf("--image-from: %w", err))
	}
	return p, errors.Join(errs...)
}

// lookupTime is how long a registry may take.
const lookupTime = 2 * time.Minute

// flags returns those that only this format has.
func (f embedFormat) flags() []cli.Flag {
	switch f.format {
	case inject.Dockerfile:
	case inject.Kubernetes:
		return []cli.Flag{&cli.BoolFlag{Name: "kustomize", Usage: "print, in place of manifests, strategic merge patches for kustomize"}}
	default:
		return nil
	}
	return []cli.Flag{
		&cli.StringFlag{Name: "target", Usage: "protect stage `NAME` or number, not the last"},
		&cli.StringSliceFlag{Name: "build-arg", Usage: "`NAME=VALUE` of an ARG that FROM uses"},
		&cli.StringFlag{Name: "context", Usage: "copy the defender's files from `DIR` of the build's context, not from an image"},
		&cli.StringFlag{Name: "zip", Usage: "write `FILE`, a ZIP of the Dockerfile and the defender's files, for a context without its image; needs --defender"},
		&cli.StringFlag{Name: "defender", Usage: "`FILE` with the defender's program, for --zip"},
	}
}

// zip writes a build's context.
func (a *app) zip(c *cli.Context, in []byte, o inject.Options) (*inject.Report, error) {
	if !c.IsSet("defender") {
		return nil, errors.New("--zip needs the defender's program: give --defender FILE")
	}
	program, err := os.ReadFile(c.String("defender"))
	if err != nil {
		return nil, fmt.Errorf("--defender: %w", err)
	}
	out, rep, err := inject.Bundle(in, program, o)
	if err != nil {
		return nil, err
	}
	return rep, writeFile(c.String("zip"), out)
}

func (a *app) embed(c *cli.Context, f embedFormat) error {
	if c.NArg() != 1 {
		return fmt.Errorf("give one file, as in \"defenderctl embed %s %s\"", f.format, f.file)
	}
	for _, pair := range [][2]string{{"diff", "output"}, {"check", "output"}, {"check", "diff"}, {"check", "remove"}, {"zip", "output"}, {"zip", "diff"}, {"zip", "check"}, {"zip", "remove"}, {"kustomize", "remove"}, {"kustomize", "check"}, {"kustomize", "diff"}} {
		if c.IsSet(pair[0]) && c.IsSet(pair[1]) {
			return fmt.Errorf("--%s and --%s do not go together", pair[0], pair[1])
		}
	}
	o, err := a.embedOptions(c)
	if err != nil {
		return err
	}
	places, err := a.places(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context, lookupTime)
	defer cancel()
	if c.Bool("lookup") || len(places.Elsewhere) > 0 {
		o.Lookup = func(name string) (inject.Image, error) {
			if _, known := places.Elsewhere[name]; !known && !c.Bool("lookup") {
				return inject.Image{}, errors.New("--image-from does not say where it is; give that, or --lookup")
			}
			return places.Lookup(ctx, name)
		}
	}
	name := c.Args().First()
	in, err := a.read(name)
	if err != nil {
		return cli.Exit(err.Error(), exitFaults)
	}
	out, rep, err := a.convert(c, f.format, in, o)
	var faults *inject.Errors
	if errors.As(err, &faults) {
		faults.Name = name
	}
	if err != nil {
		return notWritten(err)
	}
	if c.Bool("check") {
		if !bytes.Equal(in, out) {
			return cli.Exit(fmt.Sprintf("%s is not protected as these flags say; see the difference with --diff", name), exitFaults)
		}
		return nil
	}
	for _, note := range rep.Notes {
		fmt.Fprintf(a.err, "defenderctl: %s: %s\n", name, note)
	}
	if f.format == inject.TaskDefinition && len(out) > maxDefinition {
		fmt.Fprintf(a.err, "defenderctl: %s: The result has %d bytes; the platform takes %d.\n", name, len(out), maxDefinition)
	}
	switch target := c.String("output"); {
	case c.String("zip") != "" && !c.Bool("remove"):
	case c.Bool("diff"):
		_, err = a.out.Write(diff.Diff(name, in, name+" (new)", out))
	case target != "" && target != "-":
		err = writeFile(target, out)
	default:
		_, err = a.out.Write(out)
	}
	if err != nil {
		return cli.Exit(fmt.Sprintf("writing the result: %v", err), exitFaults)
	}
	return nil
}

// convert makes of a definition what the flags ask for; a ZIP it writes itself.
func (a *app) convert(c *cli.Context, format inject.Format, in []byte, o inject.Options) ([]byte, *inject.Report, error) {
	switch {
	case c.Bool("remove"):
		return inject.Remove(format, in)
	case c.String("zip") != "":
		rep, err := a.zip(c, in, o)
		return nil, rep, err
	case c.Bool("kustomize"):
		return inject.Kustomize(in, o)
	}
	return inject.Embed(format, in, o)
}

// flagsFor are the flags that help with what is said about options.
var flagsFor = [][2]string{
	{"the defender's image is missing", "--defender-image IMAGE"},
	{"neither a Console nor a policy is given", "--console URL or --policy FILE"},
	{"the Console needs an enrolment token", "--token-secret NAME or --token-file FILE"},
	{"the defender's program is missing", "--defender FILE or --defender-image IMAGE"},
}

// notWritten tells all that is wrong, each on a line, and which flag helps.
func notWritten(err error) error {
	text := "nothing is written:"
	for line := range strings.SplitSeq(err.Error(), "\n") {
		text += "\n  " + line
		for _, f := range flagsFor {
			if strings.Contains(line, f[0]) {
				text += " (" + f[1] + ")"
			}
		}
	}
	return cli.Exit(text, exitFaults)
}

// embedOptions reads the flags; every fault of them is told.
func (a *app) embedOptions(c *cli.Context) (inject.Options, error) {
	o := inject.Options{
		DefenderImage: c.String("defender-image"), Console: c.String("console"), TokenSecret: c.String("token-secret"),
		DataDir: c.String("data-dir"), AppID: c.String("app-id"), Skip: c.StringSlice("skip"), Version: version,
		Target: c.String("target"), Context: c.String("context"), NoTracing: c.Bool("no-ptrace"),
	}
	if c.IsSet("wait-for-policy") {
		wait := c.Duration("wait-for-policy")
		o.Wait = &wait
	}
	o.OnFailure = c.String("on-failure")
	if c.IsSet("file-monitoring") {
		o.FileMonitoring = new(c.Bool("file-monitoring"))
	}
	if len(o.Skip) == 0 {
		o.Skip = nil
	}
	var errs []error
	bad := func(flag string, err error) { errs = append(errs, fmt.Errorf("--%s: %w", flag, err)) }
	contents := func(flag string) []byte {
		if !c.IsSet(flag) {
			return nil
		}
		data, err := os.ReadFile(c.String(flag))
		if err == nil && len(bytes.TrimSpace(data)) == 0 {
			err = fmt.Errorf("%q is empty", c.String(flag))
		}
		if err != nil {
			bad(flag, err)
		}
		return data
	}
	o.Token = string(bytes.TrimSpace(contents("token-file")))
	o.CA = contents("ca")
	if o.Policy = contents("policy"); o.Policy != nil {
		if _, err := file.Parse(c.String("policy"), o.Policy); err != nil {
			bad("policy", err)
		}
	}
	var err error
	if c.Command.Name != "image" {
		if o.Images, err = byName(c.StringSlice("image"), func(s string) (string, error) { return s, nil }); err != nil {
			bad("image", err)
		}
	}
	if o.Entrypoints, err = byName(c.StringSlice("entrypoint"), words); err != nil {
		bad("entrypoint", err)
	}
	if o.BuildArgs, err = byName(c.StringSlice("build-arg"), func(s string) (string, error) { return s, nil }); err != nil {
		bad("build-arg", err)
	}
	if o.Commands, err = byName(c.StringSlice("command"), words); err != nil {
		bad("command", err)
	}
	if c.Bool("remove") {
		for _, flag := range c.FlagNames() {
			if !slices.Contains([]string{"remove", "undo", "diff", "output", "o", "platform", "registry-ca", "plain-http"}, flag) {
				bad(flag, errors.New("means nothing with --remove"))
			}
		}
	}
	return o, flags.Faults(errs...)
}

// byName reads NAME=VALUE, each name once. A list by itself is for the only
// container there is.
func byName[V any](list []string, read func(string) (V, error)) (map[string]V, error) {
	var m map[string]V
	for _, s := range list {
		name, value, ok := strings.Cut(s, "=")
		if strings.HasPrefix(s, "[") {
			name, value, ok = "", s, true
		} else if name == "" {
			ok = false
		}
		if !ok || value == "" {
			return nil, fmt.Errorf("%q is not NAME=VALUE", s)
		}
		if _, twice := m[name]; twice {
			return nil, fmt.Errorf("container %q is there twice", name)
		}
		v, err := read(value)
		if err != nil {
			return nil, fmt.Errorf("container %q: %w", name, err)
		}
		if m == nil {
			m = make(map[string]V)
		}
		m[name] = v
	}
	return m, nil
}

// words reads a JSON list of strings. null is none.
func words(s string) ([]string, error) {
	var list []*string
	if err := json.Unmarshal([]byte(s), &list); err != nil || list == nil || slices.Contains(list, nil) {
		return nil, fmt.Errorf(`%s is not a list of strings such as ["nginx", "-g"]`, s)
	}
	out := make([]string, len(list))
	for i := range list {
		out[i] = *list[i]
	}
	return out, nil
}

func writeFile(name string, data []byte) error {
	return inject.ReplaceFile(context.Background(), name, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}
