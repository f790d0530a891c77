package sink

import (
	"errors"
	"fmt"

	"sluice/libs/clickhouse"
)

// looks is how often it is tried to look whether a block is in the table, when the server refuses to tell.
const looks = 5

// doubt is about one range of rows that the table was sent more than once. That a repeat succeeds means that the
// table knows its token, but not always that it holds the rows: a table that is not replicated notes the token first, and
// may be killed before it has the rows. Then the rows that are not there are sent under a token of their own.
type doubt struct {
	sending *sending
	group   *group
	from    int    // first row of the range in the group
	token   string // of the range
	rows    []int  // of the range, that are sent now; nil: all
	again   int    // tokens that were tried so far
	open    bool   // what is sent now may have been sent before
	refused int    // looks that the server refused
}

// failed notes that an attempt may have left something.
func (d *doubt) failed(err error) {
	if !errors.Is(err, clickhouse.ErrNotConnected) && !errors.Is(err, clickhouse.ErrNotSent) {
		d.open = true
	}
}

// look asks the table which rows it does not hold, for as long as it takes; if that cannot be told, none. Meanwhile nothing is sent: the table may forget the token that it has just
// answered to.
func (d *doubt) look(what clickhouse.Insert) (lacks []int, err error) {
	s := d.sending
	waited := false
	defer func() {
		if waited && err == nil {
			s.lane.trouble.sending(nil)
		}
	}()
	for {
		lacks, err := s.lane.inserter.Missing(s.working, what)
		switch {
		case err == nil:
			return lacks, nil
		case errors.Is(err, clickhouse.ErrCannotTell):
			s.lane.log.WarnContext(s.working, "a block was sent again; whether it is in the table cannot be told", "token", what.Token, "error", err)
			return nil, nil
		case clickhouse.Answered(err):
			d.refused++
		}
		if d.refused == looks {
			s.lane.log.ErrorContext(s.working, "a block was sent again, and the server does not let us look whether it is in the table",
				"token", what.Token, "error", err)
			return nil, nil
		}
		waited = true
		s.lane.trouble.sending(err)
		if err := s.pause(s.lane.pace.last); err != nil {
			return nil, err
		}
	}
}

// resolve is asked once the table has answered with success. It tells whether all rows are there; if not, what is to
// be sent next is changed to those that are not.
//
// A crash at any point here sends the whole range again, under its first token, and comes here again: the tokens are the
// same, and so is what lacks, or less.
func (d *doubt) resolve(what *clickhouse.Insert) (whole bool, err error) {
	if !d.open {
		return true, nil
	}
	s := d.sending
	lacks, err := d.look(*what)
	if err != nil || len(lacks) == 0 {
		return err == nil, err
	}
	rows := make([]int, len(lacks))
	for i, row := range lacks {
		if rows[i] = row; d.rows != nil {
			rows[i] = d.rows[row]
		}
	}
	columns, err := s.kept(d.group, d.from, rows)
	if err != nil {
		return false, err
	}
	d.again++
	// Views behind the table may have taken the first repeat, and take this one, too: they can be built anew from the table,
	// which without these rows would be wrong for good.
	s.lane.log.WarnContext(s.working, "the table knows the token of a block and lacks rows of it: they are sent again under another; a materialized view may hold them twice",
		"token", what.Token, "rows", len(rows))
	d.rows, d.open = rows, s.repeated
	what.Columns, what.Token = columns, fmt.Sprintf("%s/again-%d", d.token, d.again)
	return false, nil
}
