package powercut

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// copies are databases that begin as backups of the one that the load works on. Each takes some lives of the process:
// it is made; a component is initialized with it, and writes to it; and after another cut, the component must be
// remembered and find what it wrote.
type copies [3]dbCopy

type dbCopy struct {
	state copyState
	// value is what it must hold.
	value int
}

type copyState int

const (
	absent copyState = iota
	making
	made
	written
	useless
)

func copyName(i int) string { return fmt.Sprintf("copy-%d", i) }

// whole names the databases that are backups which were answered, and not used since.
func (c *copies) whole() []string {
	var names []string
	for i := range c {
		if c[i].state == made {
			names = append(names, copyName(i))
		}
	}
	return names
}

// backups counts those that were answered.
func (c *copies) backups() (n int) {
	for i := range c {
		n += c[i].value
	}
	return n
}

// tidy removes what nobody needs, while no process runs.
func (c *copies) tidy(dataDir string) error {
	entries, err := os.ReadDir(dataDir)
	if err != nil {
		return err
	}
	for i := range c {
		if c[i].state == making || c[i].state == useless {
			c[i].state = absent
		}
	}
	for _, entry := range entries {
		name := entry.Name()
		needless := strings.Contains(name, ".partial-") || strings.Contains(name, ".compact-")
		for i := range c {
			needless = needless || c[i].state == absent && strings.HasPrefix(name, copyName(i)+".")
		}
		if needless {
			if err := os.Remove(filepath.Join(dataDir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// work takes each copy one step further.
func (c *copies) work(ctx context.Context, bolt *harness.Bolt) error {
	socket := filepath.Join(bolt.SocketDir, "bolt.sock")
	for i := range c {
		var err error
		switch c[i].state {
		case absent:
			err = c[i].make(ctx, i, bolt, socket)
		case made:
			err = c[i].write(ctx, i, socket)
		case written:
			err = c[i].read(ctx, i, socket)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", copyName(i), err)
		}
	}
	return nil
}

const copiedKey, ownKey = "copied", "own"

func (c *dbCopy) make(ctx context.Context, i int, bolt *harness.Bolt, socket string) error {
	store, err := harness.Dial(socket, "copied")
	if err != nil {
		return err
	}
	defer store.Close()
	if err := store.InitState(ctx); err != nil {
		return err
	}
	c.value++
	c.state = making
	if err := store.Set(ctx, copiedKey+strconv.Itoa(i), []byte(strconv.Itoa(c.value))); err != nil {
		return err
	}
	if err := bolt.Command(ctx, nil, "backup", filepath.Join(bolt.DataDir, copyName(i)+".db")); err != nil {
		return err
	}
	c.state = made
	return nil
}

func (c *dbCopy) write(ctx context.Context, i int, socket string) error {
	store, err := harness.Dial(socket, copyName(i))
	if err != nil {
		return err
	}
	defer store.Close()
	if err := store.InitState(ctx, "database", copyName(i)); err != nil {
		return err
	}
	if err := c.expect(ctx, store, copiedKey+strconv.Itoa(i)); err != nil {
		return err
	}
	if err := store.Set(ctx, ownKey, []byte(strconv.Itoa(c.value))); err != nil {
		return err
	}
	c.state = written
	return nil
}

func (c *dbCopy) read(ctx context.Context, i int, socket string) error {
	store, err := harness.Dial(socket, copyName(i))
	if err != nil {
		return err
	}
	defer store.Close()
	if err := c.expect(ctx, store, ownKey); err != nil {
		return err
	}
	c.state = useless
	return nil
}

func (c *dbCopy) expect(ctx context.Context, store *harness.Client, key string) error {
	value, err := store.Get(ctx, key)
	if err == nil && string(value) != strconv.Itoa(c.value) {
		err = fmt.Errorf("it holds %s = %q after a power cut, and was told %d", key, value, c.value)
	}
	return err
}
