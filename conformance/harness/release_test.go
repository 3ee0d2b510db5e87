package harness

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// releaseArchive is an archive as Dapr releases it, with a shell script in the place of the program.
func releaseArchive(t *testing.T, name string) []byte {
	var archive bytes.Buffer
	zipped := gzip.NewWriter(&archive)
	members := tar.NewWriter(zipped)
	program := []byte("#!/bin/sh\necho released\n")
	require.NoError(t, members.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(program))}))
	_, err := members.Write(program)
	require.NoError(t, err)
	require.NoError(t, members.Close())
	require.NoError(t, zipped.Close())
	return archive.Bytes()
}

// releaseServer serves the archive of placement 1.18.2 as GitHub does, and its sum.
func releaseServer(t *testing.T, sum string, archive http.HandlerFunc) *httptest.Server {
	path := fmt.Sprintf("/v1.18.2/placement_%s_%s.tar.gz", runtime.GOOS, runtime.GOARCH)
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+path+".sha256", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, "%s *%s\n", sum, filepath.Base(path))
	})
	mux.HandleFunc("GET "+path, archive)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server
}

// redirectTo sends everybody to the same path of another server, as GitHub does with its releases' files.
func redirectTo(t *testing.T, url string) *httptest.Server {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, url+r.URL.Path, http.StatusFound)
	}))
	t.Cleanup(server.Close)
	return server
}

func TestAProgramOfDaprIsDownloadedOrBuilt(t *testing.T) {
	archive := releaseArchive(t, "placement")
	sum := fmt.Sprintf("%x", sha256.Sum256(archive))
	whole := func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(archive) }
	gone := httptest.NewServer(nil)
	gone.Close()

	for name, test := range map[string]struct {
		releases string
		is       string // what the program says that it is
		told     string
	}{
		"released": {
			releases: releaseServer(t, sum, whole).URL,
			is:       "released",
		},
		"released, behind a redirect": {
			releases: redirectTo(t, releaseServer(t, sum, whole).URL).URL,
			is:       "released",
		},
		"another sum": {
			releases: releaseServer(t, fmt.Sprintf("%x", sha256.Sum256(nil)), whole).URL,
			is:       "built",
			told:     "has the SHA-256 " + sum + `; the release says "e3b0c442`,
		},
		"no such release": {
			releases: releaseServer(t, sum, http.NotFound).URL,
			is:       "built",
			told:     ".tar.gz: 404 Not Found",
		},
		"an archive that stops in the middle": {
			releases: releaseServer(t, sum, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", strconv.Itoa(len(archive)))
				_, _ = w.Write(archive[:len(archive)/2])
			}).URL,
			is:   "built",
			told: "unexpected EOF",
		},
		"an archive of something else": {
			releases: releaseServer(t, fmt.Sprintf("%x", sha256.Sum256(releaseArchive(t, "LICENSE"))), func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write(releaseArchive(t, "LICENSE"))
			}).URL,
			is:   "built",
			told: "looking for placement: EOF",
		},
		"connection refused": {releases: gone.URL, is: "built", told: "connection refused"},
		"no downloads":       {releases: "", is: "built"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(DownloadsVariable, test.releases)
			var progress bytes.Buffer
			checkout := Checkout{root: t.TempDir(), daprVersion: "v1.18.2", progress: &progress}
			writeFiles(t, checkout.Path("conformance"), map[string]string{
				"go.mod":                        "module conformance\n\nrequire github.com/dapr/dapr v1.18.2\n\nreplace github.com/dapr/dapr => ./dapr\n",
				"dapr/go.mod":                   "module github.com/dapr/dapr\n",
				"dapr/cmd/placement/program.go": "package main\n\nfunc main() { println(`built`) }\n",
			})
			path, err := checkout.Placement(t.Context())
			require.NoError(t, err, progress.String())
			out, err := exec.CommandContext(t.Context(), path).CombinedOutput()
			require.NoError(t, err)
			require.Equal(t, test.is+"\n", string(out))
			if test.told == "" {
				require.Empty(t, progress.String())
			} else {
				require.Contains(t, progress.String(), "placement 1.18.2 is built, because it cannot be downloaded: ")
				require.Contains(t, progress.String(), test.told)
			}
			require.Equal(t, []string{"placement"}, filesIn(t, filepath.Dir(path)))
		})
	}
}

// A machine may be on a network that swallows what it sends, and a server may stop in the middle.
func TestADownloadEndsWhenNothingComes(t *testing.T) {
	archive := releaseArchive(t, "placement")
	for name, before := range map[string]int{"before the answer": -1, "before the first byte": 0, "in the middle": len(archive) / 2} {
		t.Run(name, func(t *testing.T) {
			ended, end := context.WithCancel(t.Context())
			server := releaseServer(t, "", func(w http.ResponseWriter, _ *http.Request) {
				if before >= 0 {
					w.Header().Set("Content-Length", strconv.Itoa(len(archive)))
					_, _ = w.Write(archive[:before])
					w.(http.Flusher).Flush()
				}
				<-ended.Done()
			})
			// The server waits for its handlers.
			defer end()
			dir := t.TempDir()
			r := release{releases: server.URL, name: "placement", version: "v1.18.2", silence: 500 * time.Millisecond, progress: t.Output()}
			err := r.download(t.Context(), filepath.Join(dir, "placement"))
			require.ErrorContains(t, err, "nothing came for 500ms")
			require.Empty(t, filesIn(t, dir))
		})
	}
}

func TestADownloadEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	server := releaseServer(t, "", func(http.ResponseWriter, *http.Request) { cancel() })
	t.Setenv(DownloadsVariable, server.URL)
	checkout := Checkout{root: t.TempDir(), daprVersion: "v1.18.2", progress: t.Output()}
	_, err := checkout.Placement(ctx)
	require.ErrorIs(t, err, context.Canceled)
}

func writeFiles(t *testing.T, dir string, files map[string]string) {
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	}
}

// filesIn names everything in the folder, hidden things included.
func filesIn(t *testing.T, dir string) (names []string) {
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if path != dir {
			names = append(names, entry.Name())
		}
		return err
	}))
	return names
}
