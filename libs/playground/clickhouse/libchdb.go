package clickhouse

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"unsafe"
)

// libchdb is the part of the engine's C interface that this package uses.
type libchdb struct {
	connect      func(argc int32, argv unsafe.Pointer) unsafe.Pointer
	closeConn    func(conn unsafe.Pointer)
	query        queryFunc
	stream       queryFunc
	fetch        func(conn, stream unsafe.Pointer) unsafe.Pointer
	cancel       func(conn, stream unsafe.Pointer)
	destroy      func(result unsafe.Pointer)
	buffer       func(result unsafe.Pointer) unsafe.Pointer
	length       func(result unsafe.Pointer) uintptr
	errorText    func(result unsafe.Pointer) string
	storageRows  func(result unsafe.Pointer) uint64
	storageBytes func(result unsafe.Pointer) uint64
}

// queryFunc takes: connection, query and its length, format and its length, the parameters' names, the names' lengths,
// their values, the values' lengths, and how many parameters there are.
type queryFunc func(conn unsafe.Pointer, sql unsafe.Pointer, sqlLen uintptr, format unsafe.Pointer, formatLen uintptr,
	names, nameLens, values, valueLens unsafe.Pointer, n uintptr) unsafe.Pointer

// load opens the shared library. It stays in the process for good: a library of this size, with threads of its own,
// cannot be unloaded safely.
func load(path string) (*libchdb, error) {
	handle, err := dlopen(path)
	if err != nil {
		return nil, fmt.Errorf("load the ClickHouse engine: %w", err)
	}
	l := &libchdb{}
	var disableSignals func(enabled int32)
	for name, fn := range map[string]any{
		"chdb_connect":                     &l.connect,
		"chdb_close_conn":                  &l.closeConn,
		"chdb_query_with_params_n":         &l.query,
		"chdb_stream_query_with_params_n":  &l.stream,
		"chdb_stream_fetch_result":         &l.fetch,
		"chdb_stream_cancel_query":         &l.cancel,
		"chdb_destroy_query_result":        &l.destroy,
		"chdb_result_buffer":               &l.buffer,
		"chdb_result_length":               &l.length,
		"chdb_result_error":                &l.errorText,
		"chdb_result_storage_rows_read":    &l.storageRows,
		"chdb_result_storage_bytes_read":   &l.storageBytes,
		"chdb_set_signal_handlers_enabled": &disableSignals,
	} {
		sym, err := dlsym(handle, name)
		if err != nil {
			return nil, fmt.Errorf("load the ClickHouse engine: %s has no %s (another version?): %w", path, name, err)
		}
		registerFunc(fn, sym)
	}
	// Without this the engine takes SIGSEGV and its kin away from the Go runtime, which needs them.
	// The call itself resets them to their defaults, and so does every connect: see keepSignals.
	keepSignals(func() { disableSignals(0) })
	return l, nil
}

// link is one connection into the engine: a session of its own, one query at a time.
type link struct {
	lib    *libchdb
	handle unsafe.Pointer // chdb_connection: pointer to the connection the query functions want

	mu sync.Mutex // held while a query or a stream runs; guards handle
}

var connecting sync.Mutex // keepSignals must not run twice at the same time: signal handlers belong to the process

func (l *libchdb) open(dir string) (*link, error) {
	args := [][]byte{[]byte("clickhouse\x00"), []byte("--path=" + dir + "\x00")}
	argv := make([]*byte, len(args)+1)
	var pin runtime.Pinner
	defer pin.Unpin()
	for i, a := range args {
		argv[i] = &a[0]
		pin.Pin(argv[i])
	}
	connecting.Lock()
	defer connecting.Unlock()
	var handle unsafe.Pointer
	keepSignals(func() { handle = l.connect(int32(len(args)), unsafe.Pointer(&argv[0])) })
	runtime.KeepAlive(argv)
	if handle == nil {
		return nil, errors.New("the ClickHouse engine did not start (is another process using the directory?)")
	}
	return &link{lib: l, handle: handle}, nil
}

func (k *link) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.handle != nil {
		k.lib.closeConn(k.handle)
		k.handle = nil
	}
}

// param is a query parameter: {name:Type} in the text. The value is in the escaped text form that the engine reads.
type param struct{ name, value string }

func (k *link) call(fn queryFunc, sql, format string, params []param) unsafe.Pointer {
	var pin runtime.Pinner
	defer pin.Unpin()
	text := func(s string) unsafe.Pointer {
		p := unsafe.StringData(s + "\x00") // a copy: never empty, not in read-only memory
		pin.Pin(p)
		return unsafe.Pointer(p)
	}
	n := len(params)
	ptrs := make([]unsafe.Pointer, 2*n)
	lens := make([]uintptr, 2*n)
	for i, p := range params {
		ptrs[i], lens[i] = text(p.name), uintptr(len(p.name))
		ptrs[n+i], lens[n+i] = text(p.value), uintptr(len(p.value))
	}
	var names, nameLens, values, valueLens unsafe.Pointer
	if n > 0 {
		names, nameLens = unsafe.Pointer(&ptrs[0]), unsafe.Pointer(&lens[0])
		values, valueLens = unsafe.Pointer(&ptrs[n]), unsafe.Pointer(&lens[n])
	}
	res := fn(*(*unsafe.Pointer)(k.handle), text(sql), uintptr(len(sql)), text(format), uintptr(len(format)),
		names, nameLens, values, valueLens, uintptr(n))
	runtime.KeepAlive(ptrs)
	runtime.KeepAlive(lens)
	return res
}

// bytes is a result's content, still in the engine's memory: valid until destroy.
func (k *link) bytes(res unsafe.Pointer) []byte {
	p, n := k.lib.buffer(res), k.lib.length(res)
	if p == nil || n == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(p), n)
}

var errClosed = errors.New("the connection to the ClickHouse engine is closed")

// query runs one statement and returns its whole output.
func (k *link) query(sql, format string, params ...param) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.handle == nil {
		return nil, errClosed
	}
	res := k.call(k.lib.query, sql, format, params)
	if res == nil {
		return nil, errors.New("the ClickHouse engine gave no answer")
	}
	defer k.lib.destroy(res)
	if text := k.lib.errorText(res); text != "" {
		return nil, parseException(text)
	}
	return append([]byte(nil), k.bytes(res)...), nil
}

// progress is what the engine read for a query.
type progress struct{ rows, bytes uint64 }

// stream runs one statement and hands its output to each, block by block, as the engine makes it. The bytes are valid
// during the call only. An error from each ends the query.
func (k *link) stream(sql, format string, params []param, each func([]byte, progress) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.handle == nil {
		return errClosed
	}
	stream := k.call(k.lib.stream, sql, format, params)
	if stream == nil {
		return errors.New("the ClickHouse engine gave no answer")
	}
	defer k.lib.destroy(stream)
	if text := k.lib.errorText(stream); text != "" {
		return parseException(text)
	}
	conn := *(*unsafe.Pointer)(k.handle)
	for {
		more, err := k.next(conn, stream, each)
		if err != nil {
			k.lib.cancel(conn, stream)
			return err
		}
		if !more {
			return nil
		}
	}
}

func (k *link) next(conn, stream unsafe.Pointer, each func([]byte, progress) error) (bool, error) {
	res := k.lib.fetch(conn, stream)
	if res == nil {
		return false, errors.New("the ClickHouse engine gave no answer")
	}
	defer k.lib.destroy(res)
	if text := k.lib.errorText(res); text != "" {
		return false, parseException(text)
	}
	data := k.bytes(res)
	if len(data) == 0 {
		return false, nil
	}
	return true, each(data, progress{k.lib.storageRows(res), k.lib.storageBytes(res)})
}
