package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"gopkg.in/yaml.v3"
)

const (
	// appsStopWithin is what apps and sidecars get to end after Ctrl-C.
	appsStopWithin = 10 * time.Second
	// appsPoll is how often it is looked whether they have.
	appsPoll = 20 * time.Millisecond
)

// How a sidecar watches over its app: one that does not answer for two seconds gets no more events until it does, so that
// its restart does not use up their deliveries.
const (
	probeInterval    = 1 // seconds
	failureThreshold = 2 // probes
)

// appOptions are what the flags of `dapr-bolt dev` say of the apps to run with the Dapr CLI: of a run file, or one with a
// command.
type appOptions struct {
	// components is where component files are, where nothing else is said.
	components string

	runFile string
	command []string

	id                   string
	port                 int
	protocol, healthPath string
	httpPort, grpcPort   int
	placement, scheduler string
	runtimePath          string
	logLevel             string
	socketDir            string
}

// daprRun is a `dapr run` to start.
type daprRun struct {
	program string
	args    []string
	env     []string
	dir     string
	input   []byte
	// healthURL is where the one app says whether it is well; empty: there is no one such.
	healthURL string
}

// prepare returns how to run the apps, nil if there are none, and the folders of their components.
func (o *appOptions) prepare(lookupEnv func(string) (string, bool)) (run *daprRun, folders []string, err error) {
	standard, err := filepath.Abs(o.components)
	if err != nil {
		return nil, nil, err
	}
	if len(o.command) == 0 && o.runFile == "" {
		return nil, []string{standard}, nil
	}
	run = &daprRun{env: []string{"DAPR_COMPONENTS_SOCKETS_FOLDER=" + o.socketDir}}
	if run.program, err = o.findDapr(lookupEnv); err != nil {
		return nil, nil, err
	}
	// With a run file, the CLI (1.16) does not look at --runtime-path.
	if o.runtimePath != "" {
		run.env = append(run.env, "DAPR_RUNTIME_PATH="+o.runtimePath)
	}
	if o.runFile != "" {
		run.args = []string{"run", "--run-file", "-"}
		run.input, run.dir, folders, err = o.completeRunFile(standard)
		return run, folders, err
	}
	run.args, err = o.arguments(standard)
	if o.port != 0 && o.protocol == "http" && o.healthPath != "" {
		run.healthURL = "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(o.port)) + o.healthPath
	}
	return run, []string{standard}, err
}

// findDapr returns the Dapr CLI, once it is known that it finds a sidecar.
func (o *appOptions) findDapr(lookupEnv func(string) (string, bool)) (string, error) {
	program, err := exec.LookPath("dapr")
	if err != nil {
		return "", fmt.Errorf(`the Dapr CLI is not on the PATH (%w). Install it, and the sidecar, once; no Docker is needed:
  curl -fsSL https://raw.githubusercontent.com/dapr/cli/master/install/install.sh | /bin/bash
  dapr init --slim`, err)
	}
	home := o.runtimePath
	for _, variable := range []string{"DAPR_RUNTIME_PATH", "HOME"} {
		if home == "" {
			home, _ = lookupEnv(variable)
		}
	}
	daprd := filepath.Join(home, ".dapr", "bin", "daprd")
	if _, err := os.Stat(daprd); err != nil {
		return "", fmt.Errorf("there is no sidecar (%w): install it, once, with: dapr init --slim", err)
	}
	return program, nil
}

// arguments are those of `dapr run` for one app.
func (o *appOptions) arguments(folder string) ([]string, error) {
	id := o.id
	if id == "" {
		dir, err := os.Getwd()
		if err != nil {
			return nil, err
		}
		id = filepath.Base(dir)
	}
	args := []string{"run", "--app-id", id, "--resources-path", folder, "--log-level", o.logLevel,
		"--placement-host-address", o.placement, "--scheduler-host-address", o.scheduler}
	for _, port := range []struct {
		flag string
		port int
	}{{"--dapr-http-port", o.httpPort}, {"--dapr-grpc-port", o.grpcPort}} {
		if port.port != 0 {
			args = append(args, port.flag, strconv.Itoa(port.port))
		}
	}
	if o.port != 0 {
		args = append(args, "--app-port", strconv.Itoa(o.port), "--app-protocol", o.protocol)
		if o.healthPath != "" {
			args = append(args, "--enable-app-health-check", "--app-health-check-path", o.healthPath,
				"--app-health-probe-interval", strconv.Itoa(probeInterval), "--app-health-threshold", strconv.Itoa(failureThreshold))
		}
	}
	return append(append(args, "--"), o.command...), nil
}

// completeRunFile returns the run file with what it does not say itself, the folder that its paths are relative to, and
// those of its components.
func (o *appOptions) completeRunFile(standard string) (text []byte, dir string, folders []string, err error) {
	path := o.runFile
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, "dapr.yaml")
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, "", nil, err
	}
	text, err = os.ReadFile(path)
	if err != nil {
		return nil, "", nil, fmt.Errorf("run file: %w", err)
	}
	var file map[string]any
	var known struct {
		Common resources
		Apps   []struct {
			resources  `yaml:",inline"`
			AppDirPath string `yaml:"appDirPath"`
		}
	}
	if err := errors.Join(yaml.Unmarshal(text, &file), yaml.Unmarshal(text, &known)); err != nil {
		return nil, "", nil, fmt.Errorf("run file %s: %w", path, err)
	}
	dir = filepath.Dir(path)
	folders = known.Common.in(dir)
	for _, app := range known.Apps {
		appDir := absolute(dir, app.AppDirPath)
		folders = append(folders, app.in(appDir)...)
		if own := filepath.Join(appDir, ".dapr", "resources"); isDir(own) {
			folders = append(folders, own)
		}
	}
	common, _ := file["common"].(map[string]any)
	if common == nil {
		common = make(map[string]any)
	}
	if len(folders) == 0 {
		folders = []string{standard}
		common["resourcesPaths"] = folders
	}
	// The CLI (1.16) takes an empty schedulerHostAddress for localhost; a space is nowhere.
	for key, value := range map[string]any{
		"placementHostAddress": o.placement, "schedulerHostAddress": o.scheduler + " ", "logLevel": o.logLevel,
		"enableAppHealthCheck": true, "appHealthCheckPath": o.healthPath, "appHealthProbeInterval": probeInterval, "appHealthThreshold": failureThreshold,
	} {
		if _, said := common[key]; !said {
			common[key] = value
		}
	}
	file["common"] = common
	text, err = yaml.Marshal(file)
	return text, dir, folders, err
}

// resources are the folders of components that a part of a run file names.
type resources struct {
	ResourcesPath  string   `yaml:"resourcesPath"`
	ResourcesPaths []string `yaml:"resourcesPaths"`
}

func (r *resources) in(dir string) (folders []string) {
	for _, path := range append(r.ResourcesPaths, r.ResourcesPath) {
		if path != "" {
			folders = append(folders, absolute(dir, path))
		}
	}
	return folders
}

func absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// until runs `dapr run` until it ends, or until ctx does. None of the processes that it started outlives it.
func (r *daprRun) until(ctx context.Context, out, errOut io.Writer) error {
	cmd := exec.Command(r.program, r.args...)
	cmd.Dir, cmd.Env = r.dir, append(os.Environ(), r.env...)
	cmd.Stdout, cmd.Stderr = out, errOut
	if r.input != nil {
		cmd.Stdin = bytes.NewReader(r.input)
	}
	// A group of its own: Ctrl-C in a terminal then comes to this process alone, and what `dapr run` leaves behind can
	// be found.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("dapr run: %w", err)
	}
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err = cmd.Wait()
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	endGroup(cmd.Process.Pid, ended)
	<-ended
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("dapr run: %w", err)
	}
	return nil
}

// endGroup interrupts the processes of a group, as Ctrl-C does, ends those that are left once its leader has ended, and
// kills those that are left in the end.
func endGroup(group int, leaderEnded <-chan struct{}) {
	deadline := time.NewTimer(appsStopWithin)
	defer deadline.Stop()
	poll := time.NewTicker(appsPoll)
	defer poll.Stop()
	for err := syscall.Kill(-group, syscall.SIGINT); err == nil; err = syscall.Kill(-group, 0) {
		select {
		case <-poll.C:
		case <-leaderEnded:
			_ = syscall.Kill(-group, syscall.SIGTERM)
			leaderEnded = nil
		case <-deadline.C:
			_ = syscall.Kill(-group, syscall.SIGKILL)
			return
		}
	}
}
