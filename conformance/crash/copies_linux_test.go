package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/internal/durable"
)

// copies are databases that begin as backups of the one that the load works on. Each takes some lives of the process:
// it is made, in a folder that nobody else syncs; after a cut it is put beside the other databases; a component is
// initialized with it, and writes to it; and after another cut, the component must be remembered and find what it wrote.
type copies [3]dbCopy

type dbCopy struct {
	state copyState
	// value is what it must hold.
	value int
	// answered counts backups.
	answered int
}

type copyState int

const (
	absent copyState = iota
	making
	made
	placed
	written
	useless
)

func copyName(i int) string { return fmt.Sprintf("copy-%d", i) }

// backups counts those that were answered.
func (c *copies) backups() (n int) {
	for i := range c {
		n += c[i].answered
	}
	return n
}

// whole names the databases that must be there.
func (c *copies) whole() []string {
	names := []string{"dapr"}
	for i := range c {
		if c[i].state == placed || c[i].state == written {
			names = append(names, copyName(i))
		}
	}
	return names
}

// place puts backups to the databases, and removes what nobody needs, while no process runs.
func (c *copies) place(dataDir, backupDir string) error {
	for i := range c {
		switch c[i].state {
		case making, useless:
			c[i].state = absent
		case made:
			file := copyName(i) + ".db"
			if err := os.Rename(filepath.Join(backupDir, file), filepath.Join(dataDir, file)); err != nil {
				return fmt.Errorf("a backup is gone after a power cut: %w", err)
			}
			c[i].state = placed
		}
	}
	if err := errors.Join(c.tidy(dataDir), c.tidy(backupDir)); err != nil {
		return err
	}
	return errors.Join(durable.SyncDir(dataDir), durable.SyncDir(backupDir))
}

func (c *copies) tidy(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := entry.Name()
		needless := strings.Contains(name, ".partial-") || strings.Contains(name, ".compact-")
		for i := range c {
			needless = needless || c[i].state == absent && strings.HasPrefix(name, copyName(i)+".")
		}
		if needless {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// work takes each copy one step further.
func (c *copies) work(ctx context.Context, bolt *harness.Bolt, backupDir string) error {
	socket := filepath.Join(bolt.SocketDir, "bolt.sock")
	for i := range c {
		var err error
		switch c[i].state {
		case absent:
			err = c[i].make(ctx, i, bolt, socket, filepath.Join(backupDir, copyName(i)+".db"))
		case placed:
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

func (c *dbCopy) make(ctx context.Context, i int, bolt *harness.Bolt, socket, file string) error {
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
	if err := bolt.Command(ctx, nil, "backup", file); err != nil {
		return err
	}
	c.state = made
	c.answered++
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
