package component

//lint:file-ignore SA1019 v1alpha is deprecated, and what the runtime asks with.

import (
	"testing"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
)

// The runtime lists the services by reflection v1alpha.
func TestReflection(t *testing.T) {
	c := newHouse(t).dial("a")
	r, err := grpc_reflection_v1alpha.NewServerReflectionClient(c.conn).ServerReflectionInfo(c.ctx)
	require.NoError(t, err)
	require.NoError(t, r.Send(&grpc_reflection_v1alpha.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1alpha.ServerReflectionRequest_ListServices{},
	}))
	answer, err := r.Recv()
	require.NoError(t, err)
	require.NoError(t, r.CloseSend())
	var services []string
	for _, s := range answer.GetListServicesResponse().GetService() {
		services = append(services, s.GetName())
	}
	require.Subset(t, services, []string{
		proto.StateStore_ServiceDesc.ServiceName, proto.TransactionalStateStore_ServiceDesc.ServiceName,
		proto.TransactionalStoreMultiMaxSize_ServiceDesc.ServiceName, proto.PubSub_ServiceDesc.ServiceName,
	})
}
