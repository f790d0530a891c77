//go:build unix

// Package kafkatest gives tests a Kafka: an in-process one at once, a real one in some seconds. Both end with the
// test.
package kafkatest

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"sluice/libs/playground/kafka"
	"sluice/libs/playground/kafka/realkafka"
)

// startTimeout covers a cold JVM on a busy machine; jars that must be loaded have loadTimeout.
const (
	startTimeout = 5 * time.Minute
	loadTimeout  = 5 * time.Minute
)

// StartFake starts an in-process broker that makes no topics by itself and returns its address.
func StartFake(t testing.TB) string {
	t.Helper()
	return OpenFake(t, kafka.Config{}).Addr()
}

// OpenFake starts an in-process broker on a free port.
func OpenFake(t testing.TB, config kafka.Config) *kafka.Broker {
	t.Helper()
	if config.Listen == "" {
		config.Listen = "127.0.0.1:0"
	}
	b, err := kafka.Open(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// Options of a real broker. Dir is a directory of the test's own unless given.
type Options = realkafka.Config

// StartReal starts Apache Kafka for the test. Where Java or Maven are missing the test is skipped with one line; with
// CI=true it fails. The broker's log is printed when the test fails.
func StartReal(t testing.TB, options Options) *realkafka.Real {
	t.Helper()
	if options.Dir == "" {
		options.Dir = t.TempDir()
	}
	if options.Flags == nil {
		options.Flags = []string{"-XX:TieredStopAtLevel=1"} // a test's broker lives too short for the better compiler
	}
	// Loading is not part of the start's time.
	load, cancel := context.WithTimeout(t.Context(), loadTimeout)
	defer cancel()
	progress := options.Progress
	if progress == nil {
		progress = os.Stderr
	}
	_, err := realkafka.Jars(load, options.JarDir, progress)
	var r *realkafka.Real
	if err == nil {
		start, cancel := context.WithTimeout(t.Context(), startTimeout)
		defer cancel()
		options.Progress = io.Discard
		r, err = realkafka.Run(start, options)
	}
	switch {
	case errors.Is(err, realkafka.ErrUnavailable) && os.Getenv("CI") != "true":
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log of Kafka:\n%s", r.LogTail(64<<10))
		}
	})
	return r
}
