package main

import (
	"errors"
	"fmt"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

// withClient lets fn call the process that runs on the data directory.
func (c *cli) withClient(fn func(client *admin.Client) error) error {
	client := admin.NewClient(c.adminSocket())
	defer client.Close()
	err := fn(client)
	var notRunning *admin.NotRunningError
	if errors.As(err, &notRunning) {
		return fmt.Errorf("%w: start it with: dapr-bolt --data-dir %s, or name the data directory of the one that runs with --data-dir", err, c.dataDir)
	}
	return err
}
