package inject

import (
	"encoding/json"
	"fmt"
	"slices"

	"appdefender/policy"
)

// ForImage returns what an image itself must say so that its containers are
// protected: variables, as NAME=VALUE; a state that [Options.InheritImage]
// reads; and what the reader should know.
func (o Options) ForImage() (env []string, kept string, notes []string, err error) {
	var f faults
	check := o
	check.Context = "image" // the program comes from wherever
	check.validateFile(&f)
	if err := f.err(); err != nil {
		return nil, "", nil, err
	}
	for _, v := range o.fileVariables() {
		env = append(env, v[0]+"="+v[1])
	}
	text, err := json.Marshal(o.fileState())
	if err != nil {
		return nil, "", nil, err
	}
	return env, string(text), o.fileNotes("image"), nil
}

// InheritImage fills what the options leave out with what a protected image
// was told; nil is one that was not.
func (o Options) InheritImage(kept *string) Options {
	var had fileState
	if kept == nil || json.Unmarshal([]byte(*kept), &had) != nil {
		return o
	}
	return o.inheritFile(&had)
}

// fileVariables are those of a container whose image has everything in it.
func (o *Options) fileVariables() [][2]string {
	token := o.TokenSecret
	if token != "" && token[0] != '/' {
		token = "/run/secrets/" + token
	}
	return slices.DeleteFunc([][2]string{
		{envConsole, o.Console}, {envToken, o.Token}, {envTokenFile, token}, {envCA, ifAny(o.CA, caFile)}, {envPolicy, ifAny(o.Policy, policyFile)},
		{envAppID, o.AppID}, {envImage, o.Images[""]}, {envDataDir, o.dataDir()}, {envWait, o.wait()},
		{envOnFailure, o.OnFailure}, {envFiles, o.files()},
	}, func(v [2]string) bool { return v[1] == "" })
}

func (o *Options) fileState() fileState {
	return fileState{
		Version: o.Version, Image: o.DefenderImage, Console: o.Console, TokenSecret: o.TokenSecret, Token: o.Token,
		CA: string(o.CA), Policy: string(o.Policy), DataDir: o.DataDir, AppID: o.AppID, Name: o.Images[""],
		Target: o.Target, Context: o.Context, Wait: o.Wait, BuildArgs: o.BuildArgs,
		OnFailure: o.OnFailure, FileMonitoring: o.FileMonitoring,
	}
}

func (o *Options) fileNotes(what string) (notes []string) {
	w := policy.Workload{Image: o.Images[""], AppID: o.AppID}
	if o.scopes().none(w) {
		notes = append(notes, fmt.Sprintf("No rule of the policy is for image %q and App ID %q: it refuses nothing, unless the container is started with DEFENDER_CONTAINER or DEFENDER_IMAGE that a rule is for.", w.Image, w.AppID))
	}
	switch {
	case o.Token != "":
		notes = append(notes, "The enrolment token stands in the "+what+", for everybody to read who may see it; name one that the container gets at run time instead.")
	case o.Console != "" && o.TokenSecret == "":
		notes = append(notes, "The container needs the enrolment token when it is started: as the variable DEFENDER_TOKEN, or a file that DEFENDER_TOKEN_FILE names.")
	}
	return notes
}
