package clickhouse

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	controlv1 "sluice/gen/sluice/control/v1"
)

// terminateTLS puts TLS in front of a server, with a certificate that the returned PEM file vouches for.
func terminateTLS(t *testing.T, target string) (addr, caFile string) {
	t.Helper()
	issuer := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate of 127.0.0.1
	t.Cleanup(issuer.Close)
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issuer.Certificate().Raw}), 0o600))
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: issuer.TLS.Certificates})
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			down, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", target)
			if err != nil {
				_ = down.Close()
				continue
			}
			pipe := func(dst, src net.Conn) {
				_, _ = io.Copy(dst, src)
				_ = dst.Close()
				_ = src.Close()
			}
			wg.Go(func() { pipe(up, down) })
			wg.Go(func() { pipe(down, up) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr().String(), caFile
}

func TestTLS(t *testing.T) {
	sink := engine(t, "t", windowed)
	addr, ca := terminateTLS(t, sink.GetAddr()[0])
	sink.Addr = []string{addr}
	insert := func(t *testing.T, config *controlv1.TLS) error {
		sink.Tls = config
		in, err := NewInserter(sink)
		require.NoError(t, err)
		defer in.Close()
		return in.Insert(context.Background(), Insert{Table: TableName(sink), Columns: block(0, 5), Token: "t", QueryID: "q"})
	}
	require.NoError(t, insert(t, &controlv1.TLS{CaFile: ca}))
	table, err := Describe(context.Background(), sink)
	require.NoError(t, err)
	require.True(t, table.Exists)
	require.NoError(t, insert(t, &controlv1.TLS{InsecureSkipVerify: true}))
	require.Equal(t, "5/5", counted(t, sink))

	require.ErrorContains(t, insert(t, &controlv1.TLS{}), "certificate", "the system does not know this authority")
	require.ErrorContains(t, insert(t, &controlv1.TLS{CaFile: ca, ServerName: "other.example"}), "other.example")
	require.ErrorContains(t, insert(t, &controlv1.TLS{CaFile: filepath.Join(t.TempDir(), "none.pem")}), "sink.clickhouse.tls.ca_file")
	require.ErrorContains(t, insert(t, &controlv1.TLS{CertFile: ca, KeyFile: ca}), "sink.clickhouse.tls.cert_file")
	err = insert(t, nil)
	require.ErrorIs(t, err, ErrNotConnected, "plain text to a TLS port")
}
