// A double of hawser's device plugin, until the cluster's node runs the real one: offers /dev/kvm, /dev/net/tun and
// /dev/vhost-net to the kubelet under one prefix, and ends when the kubelet has restarted, for its supervisor to start again.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const copies = 100

type plugin struct {
	api.UnimplementedDevicePluginServer
	node string
}

func (p *plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

func (p *plugin) ListAndWatch(_ *api.Empty, stream api.DevicePlugin_ListAndWatchServer) error {
	devices := make([]*api.Device, copies)
	for i := range devices {
		devices[i] = &api.Device{ID: fmt.Sprint(i), Health: api.Healthy}
	}
	if err := stream.Send(&api.ListAndWatchResponse{Devices: devices}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

func (p *plugin) Allocate(_ context.Context, request *api.AllocateRequest) (*api.AllocateResponse, error) {
	response := &api.AllocateResponse{}
	for range request.ContainerRequests {
		device := &api.DeviceSpec{HostPath: p.node, ContainerPath: p.node, Permissions: "rw"}
		response.ContainerResponses = append(response.ContainerResponses,
			&api.ContainerAllocateResponse{Devices: []*api.DeviceSpec{device}})
	}
	return response, nil
}

func (p *plugin) PreStartContainer(context.Context, *api.PreStartContainerRequest) (*api.PreStartContainerResponse, error) {
	return &api.PreStartContainerResponse{}, nil
}

func (p *plugin) GetPreferredAllocation(context.Context, *api.PreferredAllocationRequest) (*api.PreferredAllocationResponse, error) {
	return &api.PreferredAllocationResponse{}, nil
}

func serve(resource, node, socket string) error {
	os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	api.RegisterDevicePluginServer(server, &plugin{node: node})
	go server.Serve(listener)
	connection, err := grpc.NewClient("unix://"+api.KubeletSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	_, err = api.NewRegistrationClient(connection).Register(context.Background(), &api.RegisterRequest{
		Version: api.Version, Endpoint: filepath.Base(socket), ResourceName: resource,
	}, grpc.WaitForReady(true))
	return err
}

func main() {
	prefix := os.Args[1]
	var sockets []string
	for name, node := range map[string]string{"kvm": "/dev/kvm", "tun": "/dev/net/tun", "vhost-net": "/dev/vhost-net"} {
		socket := filepath.Join(api.DevicePluginPath, "double-"+name+".sock")
		if err := serve(prefix+"/"+name, node, socket); err != nil {
			log.Fatal(name, ": ", err)
		}
		sockets = append(sockets, socket)
	}
	for {
		for _, socket := range sockets {
			if _, err := os.Stat(socket); err != nil {
				log.Fatal(err)
			}
		}
		time.Sleep(200 * time.Millisecond)
	}
}
