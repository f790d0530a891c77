package nats

import (
	"context"
	"fmt"
	"log/slog"
)

// logger hands the server's lines to slog. The server's notices are its banner and routine, hence
// debug. A fatal line would end the process by the server's own logger; here it ends Open.
type logger struct {
	log   *slog.Logger // nil: silent
	fatal chan<- string
}

func (l *logger) Noticef(format string, v ...any) { l.say(slog.LevelDebug, format, v) }
func (l *logger) Debugf(format string, v ...any)  { l.say(slog.LevelDebug, format, v) }
func (l *logger) Tracef(format string, v ...any)  { l.say(slog.LevelDebug, format, v) }
func (l *logger) Warnf(format string, v ...any)   { l.say(slog.LevelWarn, format, v) }
func (l *logger) Errorf(format string, v ...any)  { l.say(slog.LevelError, format, v) }

func (l *logger) Fatalf(format string, v ...any) {
	l.say(slog.LevelError, format, v)
	select {
	case l.fatal <- fmt.Sprintf(format, v...):
	default:
	}
}

func (l *logger) say(level slog.Level, format string, v []any) {
	if l.log == nil {
		return
	}
	l.log.Log(context.Background(), level, "nats server: "+fmt.Sprintf(format, v...))
}
