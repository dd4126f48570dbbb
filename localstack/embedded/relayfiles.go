package embedded

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/sallyport/sallyport/internal/keyfile"
	"github.com/sallyport/sallyport/internal/sqlite"
	"github.com/sallyport/sallyport/internal/token"
)

// RelayFiles writes what a relay program of its own needs to serve a running instance's data directory: key, certificate, CA and
// relay.yaml, all below dir. It then writes dir/ready once it serves.
func RelayFiles(ctx context.Context, data, dir, brokerURL string) (err error) {
	keys, err := keyfile.Open(filepath.Join(data, "broker", "keys"))
	if err != nil {
		return err
	}
	signer, err := keys.Signer("ca")
	if err != nil {
		return err
	}
	items, err := sqlite.OpenReadOnly(filepath.Join(data, "broker", "store.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, items.Close()) }()
	ca, err := token.LoadCA(ctx, items, signer, time.Now())
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := ca.IssueServer(ctx, &key.PublicKey, token.ServerNames{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, URI: token.URIRelay}, time.Now())
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	cert := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), ca.PEM()...)
	yaml := fmt.Sprintf("listen: 127.0.0.1:0\ncertificate: %[1]s/cert.pem\nkey: %[1]s/key.pem\nca: %[1]s/ca.pem\nbroker: %[2]s\nready_file: %[1]s/ready\n", dir, brokerURL)
	for name, b := range map[string][]byte{"cert.pem": cert, "ca.pem": ca.PEM(), "relay.yaml": []byte(yaml),
		"key.pem": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})} {
		if err := writeFile(filepath.Join(dir, name), b); err != nil {
			return err
		}
	}
	return nil
}
