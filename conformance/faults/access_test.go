package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// visitorVariable makes this test binary a client of the socket that it names, under whatever user it runs as. It writes
// "served" or what kept it out.
const visitorVariable = "FAULTS_TEST_VISIT"

func visit(socket string) {
	c, err := harness.Dial(socket, "visitor")
	if err == nil {
		err = c.InitState(context.Background())
	}
	if err == nil {
		err = c.Set(context.Background(), "visited", []byte("yes"))
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("served")
}

// user is one who owns nothing here.
type user struct {
	uid, gid uint32
	groups   []uint32
}

func (u user) credential() *syscall.Credential {
	return &syscall.Credential{Uid: u.uid, Gid: u.gid, Groups: u.groups}
}

// Numbers that no system gives to anybody by itself.
var (
	owner     = user{uid: 52001, gid: 52001}
	guest     = user{uid: 52002, gid: 52002}
	colleague = user{uid: 52003, gid: 52003, groups: []uint32{52100}}
	member    = user{uid: 52004, gid: 52100}
	stranger  = user{uid: 52005, gid: 52005}
)

const team = 52100

// premises are folders and programs that every user can reach.
type premises struct {
	*env
	dir, visitor string
}

func newPremises(t *testing.T) *premises {
	t.Helper()
	needsRoot(t, "running as other users")
	// Before the world, so that its processes end before their folders do.
	dir, err := os.MkdirTemp("", "faults")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	e := newEnv(t)
	p := &premises{env: e, dir: dir, visitor: filepath.Join(dir, "visitor")}
	self, err := os.Executable()
	require.NoError(t, err)
	copyProgram(t, self, p.visitor)
	bolt := filepath.Join(dir, "dapr-bolt")
	copyProgram(t, p.path, bolt)
	p.path = bolt
	return p
}

func copyProgram(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	require.NoError(t, err)
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(out, in)
	require.NoError(t, err)
	require.NoError(t, out.Chmod(0o755))
	require.NoError(t, out.Close())
}

// serve starts dapr-bolt as owner, in folders of its own that it makes itself, under a umask.
func (p *premises) serve(umask int, args ...string) *harness.Bolt {
	p.t.Helper()
	home, err := os.MkdirTemp(p.dir, "home")
	require.NoError(p.t, err)
	require.NoError(p.t, os.Chown(home, int(owner.uid), int(owner.gid)))
	require.NoError(p.t, os.Chmod(home, 0o755))
	// The harness would make them; the process is to.
	data, sockets := filepath.Join(home, "data"), filepath.Join(home, "sockets")
	before := syscall.Umask(umask)
	b := p.bolt(harness.BoltOptions{
		Name: filepath.Base(home), Credential: owner.credential(),
		// The last flag counts.
		Args: append([]string{"--data-dir", data, "--socket-dir", sockets}, args...),
	})
	syscall.Umask(before)
	b.DataDir, b.SocketDir = data, sockets
	return b
}

func (p *premises) visit(as user, socket string) string {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), p.visitor)
	cmd.Dir = "/"
	cmd.Env = []string{visitorVariable + "=" + socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as.credential()}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(p.t, cmd.Run(), out.String())
	return strings.TrimSpace(out.String())
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	require.NoError(t, err)
	return info.Mode().Perm()
}

func TestNobodyElseGetsInWhateverTheUmask(t *testing.T) {
	p := newPremises(t)
	for _, umask := range []int{0, 0o022, 0o777} {
		b := p.serve(umask)
		for path, want := range map[string]fs.FileMode{
			b.DataDir:                              0o700,
			filepath.Join(b.DataDir, "dapr.db"):    0o600,
			filepath.Join(b.DataDir, "admin.sock"): 0o600,
			b.SocketDir:                            0o700,
			socketOf(b):                            0o600,
		} {
			require.Equal(t, want, mode(t, path), "%s under umask %#o", path, umask)
		}
		require.Equal(t, "served", p.visit(owner, socketOf(b)))
		require.Contains(t, p.visit(stranger, socketOf(b)), "permission denied")
		require.Equal(t, fs.FileMode(0o600), mode(t, filepath.Join(b.DataDir, "sidecars.json")))
		// Also when somebody has opened up the folders and the sockets.
		admin := filepath.Join(b.DataDir, "admin.sock")
		for _, path := range []string{b.DataDir, b.SocketDir} {
			require.NoError(t, os.Chmod(path, 0o755))
		}
		for _, path := range []string{socketOf(b), admin} {
			require.NoError(t, os.Chmod(path, 0o666))
			require.NotEqual(t, "served", p.visit(stranger, path))
		}
		require.Equal(t, 2, strings.Count(logOf(t, b), "refused a connection: its user is not allowed"), logOf(t, b))
		require.Contains(t, logOf(t, b), fmt.Sprintf("of user %d, group %d", stranger.uid, stranger.gid))
		command := exec.CommandContext(t.Context(), p.path, "topics", "--data-dir", b.DataDir)
		command.Dir = "/"
		command.SysProcAttr = &syscall.SysProcAttr{Credential: stranger.credential()}
		out, err := command.CombinedOutput()
		require.Error(t, err, string(out))
		require.NotContains(t, string(out), "no topics")
	}
}

func TestAllowedUsersGetIn(t *testing.T) {
	p := newPremises(t)
	for name, test := range map[string]struct {
		args       []string
		mode       fs.FileMode
		folder     fs.FileMode
		in, out    []user
		kernelSays bool // the file's mode keeps them out
	}{
		"by user":         {args: []string{"--allow-uid", "1,52002"}, mode: 0o666, folder: 0o755, in: []user{owner, guest}, out: []user{stranger, member}},
		"by group":        {args: []string{"--allow-gid", fmt.Sprint(team)}, mode: 0o666, folder: 0o755, in: []user{owner, member, colleague}, out: []user{stranger, guest}},
		"by both":         {args: []string{"--allow-uid", "52002", "--allow-gid", fmt.Sprint(team)}, mode: 0o666, folder: 0o755, in: []user{owner, guest, member}, out: []user{stranger}},
		"by socket group": {args: []string{"--socket-group", fmt.Sprint(owner.gid)}, mode: 0o660, folder: 0o750, in: []user{owner, {uid: 52009, gid: owner.gid}}, out: []user{stranger}, kernelSays: true},
	} {
		t.Run(name, func(t *testing.T) {
			in := *p
			e := *p.env
			e.t = t
			in.env = &e
			b := in.serve(0o077, test.args...)
			require.Equal(t, test.mode, mode(t, socketOf(b)))
			require.Equal(t, test.folder, mode(t, b.SocketDir))
			require.Equal(t, fs.FileMode(0o700), mode(t, b.DataDir))
			require.Equal(t, fs.FileMode(0o600), mode(t, filepath.Join(b.DataDir, "admin.sock")), "which is nobody else's")
			for _, u := range test.in {
				require.Equal(t, "served", in.visit(u, socketOf(b)), "user %d", u.uid)
			}
			for _, u := range test.out {
				said := in.visit(u, socketOf(b))
				require.NotEqual(t, "served", said, "user %d", u.uid)
				if test.kernelSays {
					require.Contains(t, said, "permission denied")
				}
			}
			if !test.kernelSays {
				require.Contains(t, logOf(t, b), fmt.Sprintf("of user %d", test.out[0].uid))
			}
		})
	}
}

func TestAFileOfSomebodyElse(t *testing.T) {
	p := newPremises(t)
	b := p.serve(0o022)
	require.NoError(t, b.Stop())
	path := filepath.Join(b.DataDir, "dapr.db")
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	for name, wrong := range map[string]func(){
		"the file is another user's": func() {
			require.NoError(t, os.Chown(path, int(stranger.uid), int(stranger.gid)))
		},
		"the file is read-only": func() {
			require.NoError(t, os.Chown(path, int(owner.uid), int(owner.gid)))
			require.NoError(t, os.Chmod(path, 0o400))
		},
	} {
		wrong()
		require.NoError(t, b.Start())
		<-b.Done()
		require.Error(t, b.Stop(), name)
		require.Contains(t, b.LogTail(), path+": permission denied: it and its directory must belong to the user who runs dapr-bolt, and be writable", name)
	}
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, before, after)
}

// What everybody can reach changes nothing and tells nothing of anyone's data.
func TestHTTPListenIsHarmless(t *testing.T) {
	e := newEnv(t)
	b := e.bolt(harness.BoltOptions{})
	store, topics := e.store(b), e.pubsub(b, "shop")
	const marker = "MARKER-of-somebody"
	require.NoError(t, store.Set(t.Context(), "key-"+marker, []byte("value-"+marker)))
	require.NoError(t, topics.Publish(t.Context(), "orders", "id-"+marker, []byte("event-"+marker)))
	for _, path := range []string{
		"/", "/healthz", "/readyz", "/metrics", "/v1/info", "/v1/topics", "/v1/dead-letters/list", "/v1/dead-letters/redrive", "/v1/dead-letters/purge",
		"/v1/topics/remove-group", "/v1/backup", "/debug/pprof/", "/debug/vars",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch} {
			code, body := e.get(b, method, path)
			public := path == "/healthz" || path == "/readyz" || path == "/metrics"
			switch {
			case public && method == http.MethodGet:
				require.Equal(t, http.StatusOK, code, path)
			case public:
				require.Equal(t, http.StatusMethodNotAllowed, code, method+" "+path)
			default:
				// All else is the console's, which does not say without its token what is there.
				require.Equal(t, http.StatusUnauthorized, code, method+" "+path)
			}
			require.NotContains(t, body, marker, path)
		}
	}
}

// Logs are read by many. Whatever goes well or wrong, they hold no value and no event.
func TestLogsHoldNoData(t *testing.T) {
	const marker = "MARKER-in-the-data"
	e := newEnv(t)
	b := e.bolt(harness.BoltOptions{Args: []string{"--log-level", "debug"}})
	ctx := t.Context()
	store, topics := e.store(b), e.pubsub(b, "shop", "maxDeliver", "1", "dedupBy", "fields:a")
	value := []byte("value " + marker)
	require.NoError(t, store.Set(ctx, "k", value))
	_, err := store.Get(ctx, "k")
	require.NoError(t, err)
	_, err = store.State.Set(ctx, &proto.SetRequest{Key: "k", Value: value, Etag: &proto.Etag{Value: "77"}})
	require.Error(t, err)
	require.Error(t, store.Set(ctx, "", value))
	require.Error(t, store.Set(ctx, "large", bytes.Repeat(value, 400<<10)))
	_, err = store.Transaction.Transact(ctx, &proto.TransactionalStateRequest{Operations: []*proto.TransactionalStateOperation{{}, {
		Request: &proto.TransactionalStateOperation_Set{Set: &proto.SetRequest{Key: "k", Value: value}},
	}}})
	require.Error(t, err)
	event := func(extra string) []byte {
		raw, err := json.Marshal(map[string]string{"a": marker + extra, "data": marker})
		require.NoError(t, err)
		return raw
	}
	require.NoError(t, topics.Publish(ctx, "orders", "", event("")))
	require.NoError(t, topics.Publish(ctx, "orders", "", event("")), "a duplicate")
	require.Error(t, topics.Publish(ctx, "orders", "", []byte("not JSON "+marker)))
	require.Error(t, topics.Publish(ctx, "", "", event("x")))
	require.Error(t, topics.Publish(ctx, "orders", "", bytes.Repeat(value, 400<<10)))
	_, err = topics.PubSub.BulkPublish(ctx, &proto.BulkPublishRequest{Topic: "orders", Entries: []*proto.BulkMessageEntry{
		{EntryId: "1", Event: event("y")}, {EntryId: "2", Event: []byte("{" + marker)},
	}})
	require.Error(t, err)
	stream, err := topics.Pull(ctx, "orders")
	require.NoError(t, err)
	m, err := stream.Recv()
	require.NoError(t, err)
	require.Contains(t, string(m.GetData()), marker)
	require.NoError(t, stream.Send(&proto.PullMessagesRequest{AckMessageId: "never sent"}))
	require.NoError(t, stream.Send(&proto.PullMessagesRequest{AckMessageId: m.GetId(), AckError: &proto.AckMessageError{Message: "the handler said " + marker}}))
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		letters, err := b.DeadLetters(ctx)
		require.NoError(c, err)
		require.Len(c, letters, 1)
	}, patience, poll)
	require.NoError(t, b.Command(ctx, nil, "dead-letters", "redrive", "--all"))
	_, err = stream.Recv()
	require.NoError(t, err)
	b.Kill()
	require.NoError(t, b.Restart(ctx))
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		got, err := store.Get(ctx, "k")
		require.NoError(c, err)
		require.Equal(c, value, got)
	}, patience, poll)
	require.NoError(t, b.Stop())
	log := logOf(t, b)
	require.Contains(t, log, "method=", "calls are logged at this level")
	require.NotContains(t, log, marker)
}
