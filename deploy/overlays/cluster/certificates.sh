#!/bin/sh
# Makes what etcd, NATS and dapr-bolt know each other by, in the folder that is named: an authority (ca.crt, ca.key), and
# etcd/, nats/ and client/ with ca.crt, tls.crt and tls.key each. Run again, it renews the three with the same authority.
set -eu
umask 077
mkdir -p "$1"
cd "$1"

newkey() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "$@" 2>/dev/null; }

[ -e ca.key ] || newkey -x509 -days 3650 -subj "/CN=dapr-bolt cluster" -keyout ca.key -out ca.crt

issue() { # folder, extensions
	mkdir -p "$1"
	newkey -subj "/CN=$1" -keyout "$1/tls.key" -out "$1/request"
	printf '%s\n' "$2" >"$1/extensions"
	openssl x509 -req -in "$1/request" -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 \
		-extfile "$1/extensions" -out "$1/tls.crt" 2>/dev/null
	cp ca.crt "$1"
	rm "$1/request" "$1/extensions"
}

# The servers are clients of each other.
server() {
	issue "$1" "extendedKeyUsage=serverAuth,clientAuth
subjectAltName=DNS:$1-0.$1,DNS:$1-1.$1,DNS:$1-2.$1,DNS:localhost,IP:127.0.0.1"
}

server etcd
server nats
issue client extendedKeyUsage=clientAuth
