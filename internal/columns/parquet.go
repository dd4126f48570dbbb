package columns

import (
	"bytes"
	"fmt"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"
)

// MaxRows is how many rows Encode takes.
const MaxRows = 1 << 20

// codec is safe for concurrent use.
var codec = &zstd.Codec{Level: zstd.SpeedDefault, Concurrency: 1}

// Encode writes rows as a Parquet file: one row group, zstd, pages that readers of every age know. The same rows are the same bytes, as long
// as the library is the same.
func Encode(rows []Row) ([]byte, error) {
	if len(rows) > MaxRows {
		return nil, fmt.Errorf("encode %d rows: at most %d", len(rows), MaxRows)
	}
	var b bytes.Buffer
	w := parquet.NewGenericWriter[Row](&b, parquet.Compression(codec), parquet.DataPageVersion(1), parquet.MaxRowsPerRowGroup(MaxRows),
		parquet.CreatedBy("sallyport", "1", "columns"))
	if _, err := w.Write(rows); err != nil {
		return nil, fmt.Errorf("encode rows: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("encode rows: %w", err)
	}
	return b.Bytes(), nil
}

// Decode reads what Encode wrote; it is for files of one's own making.
func Decode(b []byte) ([]Row, error) {
	f, err := parquet.OpenFile(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, fmt.Errorf("decode rows: %w", err)
	}
	if f.NumRows() > MaxRows {
		return nil, fmt.Errorf("decode %d rows: at most %d", f.NumRows(), MaxRows)
	}
	rows, err := parquet.Read[Row](bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, fmt.Errorf("decode rows: %w", err)
	}
	return rows, nil
}
