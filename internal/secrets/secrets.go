// Package secrets keeps 32-byte secrets in the registry table, encrypted by a KMS key that alone can open them.
// It refuses a secret under another name or key than it was made for, and never makes a second one in the place of one that it cannot open.
package secrets

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/sallyport/sallyport/internal/store"
)

// size of a secret in bytes.
const size = 32

// callLimit bounds a call to KMS, retries included: it happens once in a process.
const callLimit = 10 * time.Second

// sealed is the registry's item.
type sealed struct {
	Ciphertext []byte `json:"ciphertext"`
}

// Load opens the secret of that name, or makes it where there is none: of two that make it at once, both return the one that was
// stored first. key is the id or ARN of a symmetric KMS key.
func Load(ctx context.Context, items store.Items, client *kms.Client, key, name string) ([]byte, error) {
	if name == "" || key == "" {
		return nil, errors.New("secret: a name and a KMS key are required")
	}
	at := Key(name)
	it, err := items.Get(ctx, store.Registry, at, true)
	if errors.Is(err, store.ErrNotFound) {
		if err := create(ctx, items, client, key, at); err != nil {
			return nil, fmt.Errorf("make secret %s: %w", name, err)
		}
		it, err = items.Get(ctx, store.Registry, at, true)
	}
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", name, err)
	}
	return open(ctx, it, client, key, name)
}

// Key is where a secret is kept, in the registry.
func Key(name string) store.Key { return store.Key{PK: "secret", SK: name} }

// binding ties the ciphertext to its use: KMS opens it under no other.
func binding(name string) map[string]string { return map[string]string{"sallyport-secret": name} }

func create(ctx context.Context, items store.Items, client *kms.Client, key string, at store.Key) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	// Without the plaintext: whoever wins the race below is asked for it.
	out, err := client.GenerateDataKeyWithoutPlaintext(ctx, &kms.GenerateDataKeyWithoutPlaintextInput{
		KeyId: &key, NumberOfBytes: aws.Int32(size), EncryptionContext: binding(at.SK)})
	if err != nil {
		return err
	}
	body, err := json.Marshal(sealed{out.CiphertextBlob})
	if err != nil {
		return err
	}
	err = items.Put(ctx, store.Write{Table: store.Registry, Item: store.Item{Key: at, Body: body}})
	if errors.Is(err, store.ErrConflict) {
		return nil
	}
	return err
}

func open(ctx context.Context, it store.Item, client *kms.Client, key, name string) ([]byte, error) {
	var s sealed
	d := json.NewDecoder(bytes.NewReader(it.Body))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return nil, fmt.Errorf("secret %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	out, err := client.Decrypt(ctx, &kms.DecryptInput{KeyId: &key, CiphertextBlob: s.Ciphertext, EncryptionContext: binding(name)})
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", name, err)
	}
	if len(out.Plaintext) != size {
		return nil, fmt.Errorf("secret %s: %d bytes, want %d", name, len(out.Plaintext), size)
	}
	return out.Plaintext, nil
}
