# syntax=docker/dockerfile:1
#
# The images of dapr-bolt and of the todo app: one static binary each, nothing else, no root.
#
#   docker build -t dapr-bolt .                       dapr-bolt, built from the source
#   docker build -t todo --target todo .              the todo app, built from the source
#   docker build -t dapr-bolt --target prebuilt .     dapr-bolt from dist/dapr-bolt, built outside
#   docker build -t todo --target prebuilt-todo .     the todo app from dist/todo, built outside
#
# The prebuilt targets come first and need no other image, so that they build with no registry. Their binaries must be
# static: CGO_ENABLED=0 go build -trimpath -o dist/ ./cmd/...

ARG GO_VERSION=1.26

FROM scratch AS empty
WORKDIR /data

# What both dapr-bolt images are, whoever built the binary.
FROM scratch AS dapr-bolt-base
LABEL org.opencontainers.image.title="dapr-bolt" \
      org.opencontainers.image.description="State and events for Dapr in one embedded file" \
      org.opencontainers.image.source="https://github.com/dapr-bolt/dapr-bolt" \
      org.opencontainers.image.licenses="Apache-2.0"
# A new volume takes its owner from this folder.
COPY --from=empty --chown=65532:65532 --chmod=0700 /data /data
# The user of Dapr's own images: a sidecar beside this container may then open its socket, which is nobody else's.
USER 65532:65532
# What is written goes to the volume at /data; the root file system may be read-only. The folder in it is made by
# dapr-bolt itself, for itself alone, whatever the volume's own permissions are.
ENV DAPR_BOLT_DATA_DIR=/data/dapr-bolt
VOLUME ["/data"]
EXPOSE 9180
ENTRYPOINT ["/dapr-bolt"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["/dapr-bolt", "health"]

FROM dapr-bolt-base AS prebuilt
COPY --chmod=0555 dist/dapr-bolt /dapr-bolt
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}"

FROM scratch AS todo-base
LABEL org.opencontainers.image.title="todo" \
      org.opencontainers.image.description="The todo app of dapr-bolt: two services and their saga" \
      org.opencontainers.image.source="https://github.com/dapr-bolt/dapr-bolt" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
ENTRYPOINT ["/todo"]

FROM todo-base AS prebuilt-todo
COPY --chmod=0555 dist/todo /todo
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}"

# The compiler runs on the machine that builds, and compiles for the one that the image is for.
FROM --platform=${BUILDPLATFORM:-linux/amd64} golang:${GO_VERSION} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG TARGETOS TARGETARCH
ARG VERSION=dev
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} \
    go build -trimpath -ldflags="-s -w -X main.release=${VERSION}" -o /out/ ./cmd/dapr-bolt ./cmd/todo

FROM todo-base AS todo
COPY --from=build --chmod=0555 /out/todo /todo
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}"

FROM dapr-bolt-base AS dapr-bolt
COPY --from=build --chmod=0555 /out/dapr-bolt /dapr-bolt
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}"
