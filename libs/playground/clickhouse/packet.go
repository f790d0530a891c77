package clickhouse

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/ClickHouse/ch-go/proto"
)

// What a client may send outside of blocks. ch-go's own decoder allocates what a length says before
// the bytes are there: nine bytes were enough to end the process.
const (
	maxGreeting   = 64 << 10  // bytes of a Hello
	maxQueryBytes = 256 << 20 // bytes of a Query: an INSERT may carry its rows in the text
	maxSettings   = 10_000    // settings of a query, and parameters
)

// packet reads the fields of one packet. Its memory grows as data comes, and no further than to left.
type packet struct {
	src  *bufio.Reader
	left int // bytes of strings that the packet may still have
}

func (p *packet) uvarint() (uint64, error) { return binary.ReadUvarint(p.src) }

// int reads what ch-go keeps in an int.
func (p *packet) int() (int, error) {
	n, err := p.uvarint()
	if err == nil && n > math.MaxInt32 {
		err = fmt.Errorf("%d is no number of this protocol", n)
	}
	return int(n), err
}

func (p *packet) string() (string, error) {
	n, err := p.uvarint()
	if err != nil {
		return "", err
	}
	if n > uint64(p.left) {
		return "", fmt.Errorf("a string of %d bytes: more than a packet may have", n)
	}
	p.left -= int(n)
	var b []byte
	for left := int(n); left > 0; {
		step := min(left, readStep)
		at := len(b)
		b = slices.Grow(b, step)[:at+step]
		if _, err := io.ReadFull(p.src, b[at:]); err != nil {
			return "", err
		}
		left -= step
	}
	return string(b), nil
}

// strings reads strings into their places.
func (p *packet) strings(into ...*string) (err error) {
	for _, s := range into {
		if *s, err = p.string(); err != nil {
			return err
		}
	}
	return nil
}

// ints reads numbers into their places.
func (p *packet) ints(into ...*int) (err error) {
	for _, n := range into {
		if *n, err = p.int(); err != nil {
			return err
		}
	}
	return nil
}

// skip reads over bytes of no interest here.
func (p *packet) skip(n int) error {
	_, err := p.src.Discard(n)
	return err
}

// hello reads what follows the code of a Hello packet.
func (p *packet) hello() (h proto.ClientHello, err error) {
	if err = p.strings(&h.Name); err != nil {
		return h, err
	}
	if err = p.ints(&h.Major, &h.Minor, &h.ProtocolVersion); err != nil {
		return h, err
	}
	return h, p.strings(&h.Database, &h.User, &h.Password)
}

// query reads what follows the code of a Query packet of a client of that version. old reads a setting's value of
// those that are so old that it is binary.
func (p *packet) query(version int, old func(p *packet, name string) (string, error)) (q *proto.Query, err error) {
	q = &proto.Query{}
	if err := p.strings(&q.ID); err != nil {
		return nil, err
	}
	asText := proto.FeatureSettingsSerializedAsStrings.In(version)
	if !asText || proto.FeatureClientWriteInfo.In(version) {
		if err := p.clientInfo(version); err != nil {
			return nil, fmt.Errorf("client info: %w", err)
		}
	}
	if asText {
		q.Settings, err = p.settings()
	} else {
		q.Settings, err = p.oldSettings(old)
	}
	if err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	if asText && proto.FeatureInterServerSecret.In(version) {
		if err := p.strings(&q.Secret); err != nil {
			return nil, err
		}
	}
	var stage, compression int
	if err := p.ints(&stage, &compression); err != nil {
		return nil, err
	}
	q.Stage, q.Compression = proto.Stage(stage), proto.Compression(compression)
	if stage > math.MaxUint8 || !q.Stage.IsAStage() || compression > math.MaxUint8 || !q.Compression.IsACompression() {
		return nil, fmt.Errorf("stage %d, compression %d: not known", stage, compression)
	}
	if err := p.strings(&q.Body); err != nil {
		return nil, err
	}
	if asText && proto.FeatureParameters.In(version) {
		settings, err := p.settings()
		if err != nil {
			return nil, fmt.Errorf("parameters: %w", err)
		}
		for _, s := range settings {
			q.Parameters = append(q.Parameters, proto.Parameter{Key: s.Key, Value: s.Value})
		}
	}
	return q, nil
}

var errManySettings = errors.New("more than a query may have")

// settings reads names and values up to an empty name.
func (p *packet) settings() (out []proto.Setting, err error) {
	const important, custom, obsolete = 1, 2, 4
	for {
		var s proto.Setting
		if err := p.strings(&s.Key); err != nil {
			return nil, err
		}
		if s.Key == "" {
			return out, nil
		}
		if len(out) == maxSettings {
			return nil, errManySettings
		}
		flags, err := p.uvarint()
		if err != nil {
			return nil, err
		}
		s.Important, s.Custom, s.Obsolete = flags&important != 0, flags&custom != 0, flags&obsolete != 0
		if err := p.strings(&s.Value); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
}

// oldSettings is settings of clients before 20.x.
func (p *packet) oldSettings(value func(p *packet, name string) (string, error)) (out []proto.Setting, err error) {
	for {
		var s proto.Setting
		if err := p.strings(&s.Key); err != nil {
			return nil, err
		}
		if s.Key == "" {
			return out, nil
		}
		if len(out) == maxSettings {
			return nil, errManySettings
		}
		if s.Value, err = value(p, s.Key); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
}

// clientInfo reads over who the client is: this server asks nobody.
func (p *packet) clientInfo(version int) error {
	kind, err := p.src.ReadByte()
	if err != nil {
		return err
	}
	if !proto.ClientQueryKind(kind).IsAClientQueryKind() {
		return fmt.Errorf("query kind %d is not known", kind)
	}
	var text string // user, query id, address
	if err := p.strings(&text, &text, &text); err != nil {
		return err
	}
	if proto.FeatureQueryStartTime.In(version) {
		if err := p.skip(8); err != nil {
			return err
		}
	}
	by, err := p.src.ReadByte()
	if err != nil {
		return err
	}
	if proto.Interface(by) != proto.InterfaceTCP {
		return fmt.Errorf("interface %d: only the native protocol is spoken here", by)
	}
	var n int
	if err := errors.Join(p.strings(&text, &text, &text), p.ints(&n, &n, &n)); err != nil { // user, host, name; version
		return err
	}
	if proto.FeatureQuotaKeyInClientInfo.In(version) {
		if err := p.strings(&text); err != nil {
			return err
		}
	}
	for _, f := range []proto.Feature{proto.FeatureDistributedDepth, proto.FeatureVersionPatch} {
		if f.In(version) {
			if err := p.ints(&n); err != nil {
				return err
			}
		}
	}
	if proto.FeatureOpenTelemetry.In(version) {
		if err := p.skipTrace(); err != nil {
			return err
		}
	}
	if proto.FeatureParallelReplicas.In(version) {
		return p.ints(&n, &n, &n)
	}
	return nil
}

func (p *packet) skipTrace() error {
	there, err := p.src.ReadByte()
	if err != nil || there == 0 {
		return err
	}
	var state string
	return errors.Join(p.skip(16+8), p.strings(&state), p.skip(1))
}
