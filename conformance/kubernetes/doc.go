// Package kubernetes tests what deploy/ and the Dockerfile say, without a cluster: the runtime's own injector code makes
// the Pods, and their containers run as processes of this machine.
package kubernetes
