//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/registry"
)

const pipeline = "window"

// parts is NATS and dedup as processes, and what speaks to them.
type parts struct {
	o           options
	nats, dedup *process
	nc          *nats.Conn
	registry    *registry.Registry
	state       jetstream.KeyValue
	stage       stagev1.StageServiceClient
	stageConn   *grpc.ClientConn
	feed        *feed
}

func open(ctx context.Context, o options, dir string) (p *parts, err error) {
	p = &parts{o: o}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	at, err := freeAddrs(3)
	if err != nil {
		return p, err
	}
	p.nats = &process{path: filepath.Join(o.bin, "sluice"), log: filepath.Join(dir, "nats.log"),
		args: []string{"dev", "nats", "--listen", at[0], "--dir", filepath.Join(dir, "nats")}}
	p.dedup = &process{path: filepath.Join(o.bin, "dedup"), log: filepath.Join(dir, "dedup.log"),
		args: []string{"--nats", "nats://" + at[0], "--grpc", at[1], "--http", at[2], "--name", "dedup"}}
	if err := p.nats.start(); err != nil {
		return p, err
	}
	if p.nc, err = nats.Connect("nats://"+at[0], nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond)); err != nil {
		return p, err
	}
	js, err := jetstream.New(p.nc)
	if err != nil {
		return p, err
	}
	if err := p.make(ctx, js); err != nil {
		return p, err
	}
	if p.stageConn, err = grpc.NewClient(at[1], grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		return p, err
	}
	p.stage = stagev1.NewStageServiceClient(p.stageConn)
	return p, p.dedup.start()
}

// make makes what the control service would: the logs, the bucket, the record of the pipeline.
func (p *parts) make(ctx context.Context, js jetstream.JetStream) (err error) {
	if p.registry, err = registry.Open(ctx, js); err != nil {
		return err
	}
	in, out := fencedlog.Log{Pipeline: pipeline, Stage: fencedlog.Ingest}, fencedlog.Log{Pipeline: pipeline, Stage: fencedlog.Dedup}
	for _, log := range []fencedlog.Log{in, out} {
		if err := fencedlog.Ensure(ctx, js, log, fencedlog.Limits{}); err != nil {
			return err
		}
	}
	if p.state, err = js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: checkpoint.Bucket(pipeline)}); err != nil {
		return err
	}
	if _, err := p.registry.Create(ctx, &controlv1.PipelineRecord{
		Uid: "u", Desired: controlv1.DesiredState_RUNNING, Generation: 1, Spec: &controlv1.Pipeline{
			Id: pipeline, Lanes: uint32(p.o.lanes), Dedup: &controlv1.Dedup{Key: []string{"id"}, Window: durationpb.New(p.o.window)},
		},
	}); err != nil {
		return err
	}
	lanes := make([]int, p.o.lanes)
	for i := range lanes {
		lanes[i] = i
	}
	writer, _, err := fencedlog.Open(ctx, js, in, "0", fencedlog.Options{Lanes: lanes})
	if err != nil {
		return err
	}
	p.feed = &feed{
		js: js, writer: writer, out: out, lanes: p.o.lanes, window: p.o.window, nowMS: firstMS,
		offsets: make([]int64, p.o.lanes), first: make([][][2]uint64, p.o.lanes), behind: p.behind,
	}
	return nil
}

// behind is how many events dedup has not folded in yet.
func (p *parts) behind(ctx context.Context) (uint64, error) {
	var sent, folded uint64
	for _, n := range p.feed.offsets {
		sent += uint64(n)
	}
	units, err := p.units(ctx)
	for _, u := range units {
		folded += u.GetTally().GetRecords()
	}
	return sent - folded, err
}

// keys is how many keys dedup holds.
func (p *parts) keys(ctx context.Context) (n uint64, err error) {
	units, err := p.units(ctx)
	for _, u := range units {
		n += u.GetStateKeys()
	}
	return n, err
}

func (p *parts) units(ctx context.Context) ([]*stagev1.UnitStatus, error) {
	resp, err := p.stage.GetStatus(ctx, &stagev1.GetStatusRequest{Pipeline: pipeline}, grpc.WaitForReady(true))
	return resp.GetUnits(), err
}

func (p *parts) checkpoint(ctx context.Context) error {
	_, err := p.stage.Checkpoint(ctx, &stagev1.CheckpointRequest{Pipeline: pipeline})
	return err
}

func (p *parts) close() {
	if p.stageConn != nil {
		_ = p.stageConn.Close()
	}
	if p.nc != nil {
		p.nc.Close()
	}
	for _, process := range []*process{p.dedup, p.nats} {
		if process != nil {
			_ = process.kill()
		}
	}
}

func freeAddrs(n int) (addrs []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close()
		addrs = append(addrs, "127.0.0.1:"+strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	}
	return addrs, nil
}
