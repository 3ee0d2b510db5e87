package kubernetes_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// localPod is a Pod whose containers are processes of this machine, with the same arguments, variables and mounts:
// only the paths of the mounts and the numbers of the ports are others.
type localPod struct {
	*node
	pod   *corev1.Pod
	name  string
	ports map[string]int

	processes map[string]*harness.App
	stopping  chan struct{}
	left      sync.Once
	watching  sync.WaitGroup

	mu       sync.Mutex
	restarts map[string]int
}

// run prepares a Pod and runs its init containers; native sidecars among them are started and must become ready, as
// the kubelet has it (KEP-753). Containers are for start.
func (n *node) run(pod *corev1.Pod) *localPod {
	n.t.Helper()
	n.pods++
	p := &localPod{
		node: n, pod: localForm(n.t, n, pod), name: fmt.Sprintf("%s.%d", pod.Name, n.pods),
		ports: map[string]int{}, processes: map[string]*harness.App{},
		stopping: make(chan struct{}), restarts: map[string]int{},
	}
	// Of a test that failed: what the harness stops must not be started again.
	n.t.Cleanup(p.leave)
	for _, c := range containersOf(p.pod.Spec) {
		p.findPorts(c)
	}
	for _, c := range p.pod.Spec.InitContainers {
		if isNative(c) {
			p.start(c.Name)
			if c.StartupProbe != nil {
				require.NoError(n.t, p.processes[c.Name].WaitReady(n.t.Context()))
			}
			continue
		}
		p.finish(c)
	}
	return p
}

func isNative(c corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// volumeDir is the folder that a volume is here. Claims and the node's folders outlive their Pods.
func (p *localPod) volumeDir(name string) string {
	p.t.Helper()
	v := volume(p.t, p.pod, name)
	dir := filepath.Join(p.dir, p.name+"."+name)
	switch {
	case v.PersistentVolumeClaim != nil:
		dir = filepath.Join(p.dir, "claim."+v.PersistentVolumeClaim.ClaimName)
	case v.HostPath != nil:
		dir = filepath.Join(p.dir, strings.ReplaceAll(strings.Trim(v.HostPath.Path, "/"), "/", "."))
	case v.ConfigMap != nil:
		for _, m := range all[*corev1.ConfigMap](p.manifests) {
			if m.Name == v.ConfigMap.Name {
				require.NoError(p.t, os.MkdirAll(dir, 0o755))
				for key, value := range m.Data {
					require.NoError(p.t, os.WriteFile(filepath.Join(dir, key), []byte(value), 0o644))
				}
				return dir
			}
		}
		require.Fail(p.t, "the overlay has no ConfigMap "+v.ConfigMap.Name)
	}
	require.NoError(p.t, os.MkdirAll(dir, 0o755))
	return dir
}

// portValue matches a port where one may stand: alone, or after a colon or an equals sign.
var portValue = regexp.MustCompile(`(^|[=:])([0-9]{4,5})$`)

// findPorts gives each port that the container names a free one of this machine.
func (p *localPod) findPorts(c corev1.Container) {
	p.t.Helper()
	add := func(port string) {
		if _, ok := p.ports[port]; !ok {
			free, err := p.harness.FreePort()
			require.NoError(p.t, err)
			p.ports[port] = free
		}
	}
	for _, port := range c.Ports {
		add(strconv.Itoa(int(port.ContainerPort)))
	}
	for i, arg := range c.Args {
		flag := arg
		if i > 0 && !strings.Contains(arg, "=") {
			flag = c.Args[i-1]
		}
		name, _, _ := strings.Cut(flag, "=")
		if found := portValue.FindStringSubmatch(arg); found != nil && strings.HasSuffix(name, "port") {
			add(found[2])
		}
	}
}

// local is text with the paths of the container's mounts and the Pod's ports as they are here.
func (p *localPod) local(c corev1.Container, text string) string {
	mounts := slices.Clone(c.VolumeMounts)
	slices.SortFunc(mounts, func(a, b corev1.VolumeMount) int { return len(b.MountPath) - len(a.MountPath) })
	for _, m := range mounts {
		path := regexp.MustCompile(`(^|[\s=:,])` + regexp.QuoteMeta(m.MountPath) + `($|[/\s:,])`)
		text = path.ReplaceAllString(text, "${1}"+p.volumeDir(m.Name)+"${2}")
	}
	return portValue.ReplaceAllStringFunc(text, func(match string) string {
		found := portValue.FindStringSubmatch(match)
		if port, ok := p.ports[found[2]]; ok {
			return found[1] + strconv.Itoa(port)
		}
		return match
	})
}

// commandLine is what the container's process is started with.
func (p *localPod) commandLine(c corev1.Container) (program string, args, env []string) {
	p.t.Helper()
	values := map[string]string{}
	for _, e := range c.Env {
		value := p.local(c, e.Value)
		switch from := e.ValueFrom; {
		case from == nil:
		case from.SecretKeyRef != nil:
			require.Equal(p.t, "token", from.SecretKeyRef.Key)
			value = secrets[from.SecretKeyRef.Name]
			require.NotEmpty(p.t, value, "secret %s", from.SecretKeyRef.Name)
		case from.FieldRef != nil:
			require.Equal(p.t, "metadata.name", from.FieldRef.FieldPath)
			value = p.name
		}
		values[e.Name] = value
		env = append(env, e.Name+"="+value)
	}
	words := slices.Concat(c.Command, c.Args)
	image, _, _ := strings.Cut(c.Image, ":")
	switch image {
	case "busybox":
		program, words = words[0], words[1:]
	case "daprio/daprd":
		// Dapr's image has no entrypoint.
		require.Equal(p.t, "/daprd", words[0])
		program, words = p.programs[image], words[1:]
	default:
		require.Empty(p.t, c.Command)
		program = p.programs[image]
		require.NotEmpty(p.t, program, "image %s", c.Image)
	}
	for _, word := range words {
		for name, value := range values {
			word = strings.ReplaceAll(word, "$("+name+")", value)
		}
		args = append(args, p.local(c, word))
	}
	if p.as != nil {
		user, group := p.pod.Spec.SecurityContext.RunAsUser, p.pod.Spec.SecurityContext.RunAsGroup
		if own := c.SecurityContext; own != nil && own.RunAsUser != nil {
			user = own.RunAsUser
		}
		program = p.as(p.t, program, *user, *group)
	}
	return program, args, env
}

// finish runs a container to its end, as an init container or that of a Job.
func (p *localPod) finish(c corev1.Container) {
	p.t.Helper()
	program, args, env := p.commandLine(c)
	cmd := exec.CommandContext(p.t.Context(), program, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	require.NoError(p.t, err, "%s: %s %q: %s", c.Name, program, args, out)
}

// start starts a container's process and, from then on, starts it again whenever it ends, as restartPolicy Always has
// it, though without the kubelet's back-off.
func (p *localPod) start(names ...string) {
	p.t.Helper()
	for _, name := range names {
		c := container(p.t, p.pod, name)
		program, args, env := p.commandLine(c)
		opts := harness.AppOptions{Name: p.name + "." + name, Path: program, Args: args, Env: env}
		probe := c.ReadinessProbe
		require.NotNil(p.t, probe, "%s has no readiness probe", name)
		require.NotNil(p.t, c.LivenessProbe, "%s has no liveness probe", name)
		number := probe.HTTPGet.Port.String()
		port, ok := p.ports[number]
		require.True(p.t, ok, "%s is probed at port %s, which nobody listens on", name, number)
		opts.Port, opts.ReadyPath = port, probe.HTTPGet.Path
		process, err := p.harness.StartApp(opts)
		require.NoError(p.t, err)
		p.processes[name] = process
		p.watching.Go(func() { p.keepUp(name, process) })
	}
}

func (p *localPod) keepUp(name string, process *harness.App) {
	for {
		select {
		case <-p.stopping:
			return
		case <-process.Done():
		}
		select {
		case <-p.stopping:
			return
		default:
		}
		p.mu.Lock()
		p.restarts[name]++
		p.mu.Unlock()
		if err := process.Start(); err != nil {
			p.t.Errorf("start %s again: %v", name, err)
			return
		}
	}
}

// leave ends the watch over the containers.
func (p *localPod) leave() {
	p.left.Do(func() { close(p.stopping) })
	p.watching.Wait()
}

func (p *localPod) restarted(name string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.restarts[name]
}

// startAll starts the containers, all at once, and waits until each is ready.
func (p *localPod) startAll() {
	p.t.Helper()
	var names []string
	for _, c := range p.pod.Spec.Containers {
		names = append(names, c.Name)
	}
	p.start(names...)
	p.waitReady()
}

func (p *localPod) waitReady() {
	p.t.Helper()
	for _, process := range p.processes {
		// A process that ends on the way is started again.
		require.Eventually(p.t, func() bool {
			ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
			defer cancel()
			return process.WaitReady(ctx) == nil
		}, seen, 50*time.Millisecond, "%s: %s", process.Name(), process.LogTail())
	}
}

// end is how a container ended when its Pod was deleted.
type end struct {
	name string
	// from is when it was told to, to is when it was gone, since the Pod's deletion.
	from, to time.Duration
}

// stop deletes the Pod: containers are told to end at once, or after their preStop sleep; then the native sidecars, in
// the reverse of their order. A sleep ends here as soon as the others have ended; that it is long enough, TestGracefulTimesFit
// holds.
func (p *localPod) stop() []end {
	p.t.Helper()
	p.leave()
	began := time.Now()
	var mu sync.Mutex
	var ends []end
	terminate := func(c corev1.Container) {
		e := end{name: c.Name, from: time.Since(began)}
		if err := p.processes[c.Name].Stop(); err != nil {
			p.t.Errorf("%v", err)
		}
		e.to = time.Since(began)
		mu.Lock()
		defer mu.Unlock()
		ends = append(ends, e)
	}
	var now, later []corev1.Container
	for _, c := range p.pod.Spec.Containers {
		if p.processes[c.Name] == nil {
			continue
		}
		if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
			later = append(later, c)
		} else {
			now = append(now, c)
		}
	}
	for _, list := range [][]corev1.Container{now, later} {
		var group sync.WaitGroup
		for _, c := range list {
			group.Go(func() { terminate(c) })
		}
		group.Wait()
	}
	for _, c := range slices.Backward(p.pod.Spec.InitContainers) {
		if isNative(c) {
			terminate(c)
		}
	}
	return ends
}

// at is the address on which a port of the Pod is served here.
func (p *localPod) at(port string) string {
	return "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(p.ports[port]))
}
