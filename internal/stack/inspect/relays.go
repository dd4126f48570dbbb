package inspect

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
)

// relays connects to every relay that clients are told of.
func (i *inspection) relays(ctx context.Context) {
	if i.ca == nil {
		return // discovery said why
	}
	pool := x509.NewCertPool()
	pool.AddCert(i.ca)
	if len(i.told.Relays) == 0 {
		i.add("relays", Fail, "deploy with the parameter Relays", "discovery names none")
	}
	for _, address := range i.told.Relays {
		i.verdict("relay "+address, i.Relay(ctx, address, pool), "see whether sallyport-relay runs there, whether this network may reach it, and whether its certificate is still good (`sallyport stack relay-certificate`)",
			"answers, with a certificate of this stack")
	}
}

func decode(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(v)
}
