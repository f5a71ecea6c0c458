package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"appdefender/inject"
	"appdefender/inject/image"
	"appdefender/policy/file"
)

func (a *app) embedTerraform() *cli.Command {
	return &cli.Command{
		Name:      "terraform",
		Usage:     "be the program of an external data source of Terraform",
		UsageText: "defenderctl embed terraform < query.json",
		Description: "Terraform writes a JSON object of strings to standard input and reads one from standard\n" +
			"output:\n\n" +
			"    data \"external\" \"protected\" {\n" +
			"      program = [\"defenderctl\", \"embed\", \"terraform\"]\n" +
			"      query = {\n" +
			"        container_definitions = jsonencode([{ name = \"web\", image = \"nginx\", … }])\n" +
			"        family                = \"shop\"\n" +
			"        defender_image        = \"registry.example.com/defender:1\"\n" +
			"        console               = \"https://console.example.com:8443\"\n" +
			"        token_secret          = aws_secretsmanager_secret.token.arn\n" +
			"        ca                    = file(\"ca.pem\")\n" +
			"      }\n" +
			"    }\n\n" +
			"data.external.protected.result.container_definitions is what aws_ecs_task_definition takes.\n" +
			"Instead of container_definitions and family, definition and format take any file that\n" +
			"\"embed\" does. Further keys: policy, token, app_id, data_dir, wait_for_policy, skip (names,\n" +
			"with commas), lookup (\"true\"), on_failure, file_monitoring (\"true\"). Without app_id one is made of the family, always the same.",
		OnUsageError: usageError,
		Action:       a.terraform,
	}
}

// query is what Terraform asks: strings only.
type query struct {
	ContainerDefinitions string        `json:"container_definitions"`
	Family               string        `json:"family"`
	Definition           string        `json:"definition"`
	Format               inject.Format `json:"format"`

	DefenderImage string `json:"defender_image"`
	Console       string `json:"console"`
	TokenSecret   string `json:"token_secret"`
	Token         string `json:"token"`
	CA            string `json:"ca"`
	Policy        string `json:"policy"`
	AppID         string `json:"app_id"`
	DataDir       string `json:"data_dir"`
	Wait          string `json:"wait_for_policy"`
	OnFailure     string `json:"on_failure"`
	Files         string `json:"file_monitoring"`
	Skip          string `json:"skip"`
	Lookup        string `json:"lookup"`
}

func (a *app) terraform(c *cli.Context) error {
	if c.Args().Present() {
		return errors.New("everything is in the query on standard input: give no arguments")
	}
	data, err := io.ReadAll(a.in)
	if err != nil {
		return fmt.Errorf("reading standard input: %w", err)
	}
	var q query
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&q); errors.Is(err, io.EOF) {
		return cli.Exit("the query: standard input is empty", exitFaults)
	} else if err != nil {
		return cli.Exit("the query: "+err.Error(), exitFaults)
	}
	o, err := q.options(c.Context)
	if err != nil {
		return cli.Exit("the query: "+err.Error(), exitFaults)
	}
	key, out := "definition", []byte(nil)
	var rep *inject.Report
	switch {
	case (q.ContainerDefinitions == "") == (q.Definition == ""):
		err = errors.New("give container_definitions and family, or definition and format")
	case q.ContainerDefinitions != "" && q.Family == "":
		err = errors.New("family: missing")
	case q.ContainerDefinitions != "":
		key = "container_definitions"
		out, rep, err = inject.EmbedContainers([]byte(q.ContainerDefinitions), q.Family, o)
	case q.AppID == "":
		err = errors.New("app_id: missing; one made by chance would be a change at every plan")
	default:
		out, rep, err = inject.Embed(q.Format, []byte(q.Definition), o)
	}
	if err != nil {
		return cli.Exit("the query: "+err.Error(), exitFaults)
	}
	for _, note := range rep.Notes {
		fmt.Fprintf(a.err, "defenderctl: %s\n", note)
	}
	return json.NewEncoder(a.out).Encode(map[string]string{key: string(out), "app_id": rep.AppID})
}

func (q *query) options(ctx context.Context) (inject.Options, error) {
	o := inject.Options{
		DefenderImage: q.DefenderImage, Console: q.Console, TokenSecret: q.TokenSecret, Token: strings.TrimSpace(q.Token),
		AppID: q.AppID, DataDir: q.DataDir, OnFailure: q.OnFailure, Version: version,
	}
	if q.CA != "" {
		o.CA = []byte(q.CA)
	}
	if q.Policy != "" {
		o.Policy = []byte(q.Policy)
		if _, err := file.Parse("policy", o.Policy); err != nil {
			return o, err
		}
	}
	if q.Wait != "" {
		wait, err := time.ParseDuration(q.Wait)
		if err != nil {
			return o, fmt.Errorf("wait_for_policy: %w", err)
		}
		o.Wait = &wait
	}
	var err error
	if o.FileMonitoring, err = maybeBool("file_monitoring", q.Files); err != nil {
		return o, err
	}
	lookup, err := maybeBool("lookup", q.Lookup)
	if err != nil {
		return o, err
	}
	if q.Skip != "" {
		o.Skip = strings.Split(q.Skip, ",")
	}
	if lookup != nil && *lookup {
		o.Lookup = func(name string) (inject.Image, error) {
			ctx, cancel := context.WithTimeout(ctx, lookupTime)
			defer cancel()
			return new(image.Places).Lookup(ctx, name)
		}
	}
	return o, nil
}

// maybeBool reads a value of true or false; nil is none.
func maybeBool(key, s string) (*bool, error) {
	if s == "" {
		return nil, nil
	}
	on, err := strconv.ParseBool(s)
	if err != nil {
		return nil, fmt.Errorf("%s: %q is neither true nor false", key, s)
	}
	return &on, nil
}
